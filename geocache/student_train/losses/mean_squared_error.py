"""Mean squared error with labels of the user's own: regression on several numbers an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from geocache.student_train.losses._base import Loss, OwnOrClass, full_precision

__all__ = ["MeanSquaredError"]


@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """Mean squared error of the student's k outputs s and the labels y: `L = mean (s - y)^2`.

    The mean is over the labels that are known (not NaN); a batch without any has L = 0 and gradient
    0. O(B k).
    """

    reads_labels: ClassVar[OwnOrClass] = "values"

    def __call__(
        self, *, student: Float[Tensor, "batch k"], target: Mapping[str, Float[Tensor, "batch k"]]
    ) -> Float[Tensor, ""]:
        """Return L; `target["labels"]` holds the labels (batch, k), NaN where unknown."""
        s = full_precision(student)
        labels = target["labels"].to(s.dtype)
        known = ~labels.isnan()
        error = (s - labels.nan_to_num(0.0)).where(known, 0.0)
        return error.square().sum() / known.sum().clamp(min=1)


LOSS = MeanSquaredError
