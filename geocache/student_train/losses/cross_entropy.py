"""Cross-entropy with the data set's labels: the only loss that needs no teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from geocache.errors import ConfigError
from geocache.student_train.losses._base import Loss, OwnOrClass, full_precision

__all__ = ["CrossEntropy"]


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Cross-entropy of the student's logits s and the labels y.

    `L = -mean_b log softmax(s_b)[y_b]`, over the rows that have a label (y >= 0); a batch without
    any has L = 0 and gradient 0. Invariant to adding a constant to a row of logits. O(B K).

    Of mixed images each row counts for both labels: `w` for its own, `1 - w` for its partner's
    (mixup, eq 2; CutMix, eq 1), and L is the mean by these weights over the labels that are there.

    Arguments: `label_smoothing` e in [0, 1): the label's distribution is then `(1 - e)` at the
    label and `e / K` spread over all K classes (Szegedy et al. 2016, section 7). Raises ConfigError
    for another.
    """

    label_smoothing: float = 0.0
    reads_labels: ClassVar[OwnOrClass] = "class"
    reads_both_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(
                "cross_entropy label_smoothing must be at least 0 and below 1, got "
                f"{self.label_smoothing}. Usual is 0.1."
            )

    def __call__(
        self,
        *,
        student: Float[Tensor, "batch classes"],
        target: Mapping[str, Shaped[Tensor, " batch"]],
    ) -> Float[Tensor, ""]:
        """Return L; `target["labels"]` holds class indices (batch,), -1 for an unlabelled row.

        Of mixed images also `partner_labels` alike, and `own_weights` w in [0, 1].
        """
        labels = target["labels"]
        if "partner_labels" in target:
            return self._of_both(student, labels, target["partner_labels"], target["own_weights"])
        n_labelled = (labels >= 0).sum().clamp(min=1)
        total = F.cross_entropy(
            full_precision(student), labels, ignore_index=-1, reduction="sum",
            label_smoothing=self.label_smoothing,
        )  # fmt: skip
        return total / n_labelled

    def _of_both(self, student: Tensor, own: Tensor, partner: Tensor, weights: Tensor) -> Tensor:
        labels = torch.cat([own, partner])
        counted = torch.cat([weights, 1 - weights]) * (labels >= 0)
        values = F.cross_entropy(
            full_precision(student).repeat(2, 1), labels, ignore_index=-1, reduction="none",
            label_smoothing=self.label_smoothing,
        )  # fmt: skip
        total = counted.sum()
        return (counted * values).sum() / torch.where(total > 0, total, 1.0)


LOSS = CrossEntropy
