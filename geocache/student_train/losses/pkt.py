"""Probabilistic knowledge transfer: the student's batch has the teacher's cosine neighbourhoods."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from geocache.student_train.losses._activations import Stored
from geocache.student_train.losses._batch_kernels import (
    Features,
    check_features,
    conditional,
    cosine_kernel,
)
from geocache.student_train.losses._feature_rows import FeatureRowsLoss

__all__ = ["PKT"]

_EPSILON = 1e-7


@dataclass(frozen=True)
class PKT(FeatureRowsLoss):
    """One-sided KL between conditional probabilities on the cosine kernel (Passalis & Tefas 2018).

    `L = mean_ij p_T(i|j) log((p_T(i|j) + e) / (p_S(i|j) + e))`, e = 1e-7, `K = (cos + 1) / 2`, the
    mean over all B^2 pairs and the diagonal kept, as in the authors' code. Invariant to the scale
    of either net's features. O(B^2 d).

    Arguments: `features`, "pooled" (mean over positions) or "flattened"; `dtype`, how the
    flattened maps are stored. Raises ConfigError for others, ShapeError for a batch of one row.
    """

    features: Features = "pooled"
    dtype: Stored = "float16"

    def __post_init__(self) -> None:
        check_features(self.features, "pkt", self.dtype)

    def _distance(self, ours: Tensor, theirs: Tensor) -> Float[Tensor, ""]:
        q, p = (conditional(cosine_kernel(rows), diagonal=True) for rows in (ours, theirs))
        return (p * torch.log((p + _EPSILON) / (q + _EPSILON))).mean()


LOSS = PKT
