"""Metric transfer (MKT): distances between the images of a batch follow the teacher's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from geocache.student_train.losses._activations import Stored
from geocache.student_train.losses._batch_kernels import (
    Features,
    batch_distances,
    check_features,
)
from geocache.student_train.losses._feature_rows import FeatureRowsLoss

__all__ = ["MetricTransfer"]


@dataclass(frozen=True)
class MetricTransfer(FeatureRowsLoss):
    """The relative teacher of Yu et al. 2019: `L = mean_{i<j} |d_T(i,j) - d_S(i,j)|`, Euclidean.

    Distances are sqrt(max(d^2, 0) + 1e-6), smooth where two rows agree. Invariant to a shift of
    either net's features. O(B^2 d).

    Arguments: `features`, "pooled" or "flattened"; `dtype`, how the flattened maps are stored.
    Raises ConfigError for others, ShapeError for a batch of one row.
    """

    features: Features = "pooled"
    dtype: Stored = "float16"

    def __post_init__(self) -> None:
        check_features(self.features, "metric_transfer", self.dtype)

    def _distance(self, ours: Tensor, theirs: Tensor) -> Float[Tensor, ""]:
        i, j = torch.triu_indices(len(ours), len(ours), offset=1, device=ours.device)
        return (batch_distances(theirs)[i, j] - batch_distances(ours)[i, j]).abs().mean()


LOSS = MetricTransfer
