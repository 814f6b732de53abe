"""Binary cross-entropy with labels of the user's own: several yes-or-no answers an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from geocache.student_train.losses._base import Loss, OwnOrClass, full_precision

__all__ = ["BinaryCrossEntropy"]


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """Binary cross-entropy of the student's k outputs s and the labels y in [0, 1].

    `L = -mean [y log sigmoid(s) + (1 - y) log(1 - sigmoid(s))]`, over the labels that are known
    (not NaN); a batch without any has L = 0 and gradient 0. O(B k).
    """

    reads_labels: ClassVar[OwnOrClass] = "binary"

    def __call__(
        self, *, student: Float[Tensor, "batch k"], target: Mapping[str, Float[Tensor, "batch k"]]
    ) -> Float[Tensor, ""]:
        """Return L; `target["labels"]` holds the labels (batch, k), NaN where unknown."""
        s = full_precision(student)
        labels = target["labels"].to(s.dtype)
        known = ~labels.isnan()
        values = F.binary_cross_entropy_with_logits(s, labels.nan_to_num(0.0), reduction="none")
        return values.where(known, 0.0).sum() / known.sum().clamp(min=1)


LOSS = BinaryCrossEntropy
