"""Metric transfer (MKT): distances between the images of a batch follow the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from geocache.student_train.losses._activations import Stored
from geocache.student_train.losses._base import Loss
from geocache.student_train.losses._batch_kernels import (
    Features,
    batch_distances,
    check_features,
    feature_rows,
    feature_target,
)

__all__ = ["MetricTransfer"]


@dataclass(frozen=True)
class MetricTransfer(Loss):
    """The relative teacher of Yu et al. 2019: `L = mean_{i<j} |d_T(i,j) - d_S(i,j)|`, Euclidean.

    Distances are sqrt(max(d^2, 0) + 1e-6), smooth where two rows agree. Invariant to a shift of
    either net's features. O(B^2 d).

    Arguments: `features`, "pooled" or "flattened"; `dtype`, how the flattened maps are stored.
    Raises ConfigError for others, ShapeError for a batch of one row.
    """

    features: Features = "pooled"
    dtype: Stored = "float16"
    needs_layer: ClassVar[bool] = True
    row_by_row: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_features(self.features, "metric_transfer", self.dtype)

    def targets(self, layer: str | None = None) -> tuple[str, ...]:
        """Name the teacher's features."""
        return (f"{layer}/{self._name()}" if layer else self._name(),)

    def _name(self) -> str:
        return feature_target(self.features, self.dtype)

    def __call__(
        self, *, student: Float[Tensor, batch * map], target: Mapping[str, Tensor]
    ) -> Float[Tensor, ""]:
        """Return L; the target holds the teacher's features (batch, C) or maps (batch, C, H, W)."""
        ours = batch_distances(feature_rows(student, self.features))
        rows = feature_rows(target[self._name()], self.features)
        theirs = batch_distances(rows).to(ours.dtype)
        i, j = torch.triu_indices(len(ours), len(ours), offset=1, device=ours.device)
        return (theirs[i, j] - ours[i, j]).abs().mean()


LOSS = MetricTransfer
