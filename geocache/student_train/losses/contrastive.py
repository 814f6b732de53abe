"""Contrastive supervision: images of one class lie close, others at least a margin apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from geocache.errors import ConfigError
from geocache.student_train.losses._base import Loss, OwnOrClass
from geocache.student_train.losses._batch_kernels import (
    Features,
    batch_distances,
    check_features,
    feature_rows,
)

__all__ = ["Contrastive"]


@dataclass(frozen=True)
class Contrastive(Loss):
    """Hadsell et al. 2006: `L = mean_{i<j} y d^2 + (1 - y) max(0, m - d)^2`, y = same class.

    d = sqrt(max(|a-b|^2, 0) + 1e-6). It needs labels and no teacher; InfoFlow's Table 1 adds it to
    the other terms. Unlabelled rows are left out. Not for views that mix two images, whose rows
    have two classes. O(B^2 d).

    Arguments: `margin` > 0; `features`, "flattened" or "pooled". Raises ConfigError for others and
    for mixed rows, ShapeError for a batch of one row.
    """

    margin: float = 1.0
    features: Features = "flattened"
    needs_layer: ClassVar[bool] = True
    row_by_row: ClassVar[bool] = False
    reads_labels: ClassVar[OwnOrClass] = "class"

    def __post_init__(self) -> None:
        check_features(self.features, "contrastive")
        if self.margin <= 0:
            raise ConfigError(f"contrastive margin must be above 0, got {self.margin}.")

    def __call__(
        self, *, student: Float[Tensor, batch * map], target: Mapping[str, Tensor]
    ) -> Float[Tensor, ""]:
        """Return L of the student's features; the target holds `labels` (batch,)."""
        if "partner_labels" in target:
            raise ConfigError(
                "contrastive must have one class a row, got rows that are mixed with partners. "
                "Take views that show one image."
            )
        labels = target["labels"]
        distance = batch_distances(feature_rows(student, self.features))
        n = len(distance)
        i, j = torch.triu_indices(n, n, offset=1, device=distance.device)
        known = (labels[i] >= 0) & (labels[j] >= 0)
        d = distance[i, j]
        same = labels[i] == labels[j]
        values = torch.where(same, d.square(), (self.margin - d).clamp_min(0).square())
        return values.where(known, 0).sum() / known.sum().clamp_min(1)


LOSS = Contrastive
