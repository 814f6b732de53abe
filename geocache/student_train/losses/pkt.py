"""Probabilistic knowledge transfer: the student's batch has the teacher's cosine neighbourhoods."""

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
    check_features,
    conditional,
    cosine_kernel,
    feature_rows,
    feature_target,
)

__all__ = ["PKT"]

_EPSILON = 1e-7


@dataclass(frozen=True)
class PKT(Loss):
    """One-sided KL between conditional probabilities on the cosine kernel (Passalis & Tefas 2018).

    `L = mean_ij p_T(i|j) log((p_T(i|j) + e) / (p_S(i|j) + e))`, e = 1e-7, `K = (cos + 1) / 2`, the
    mean over all B^2 pairs and the diagonal kept, as in the authors' code. Invariant to the scale
    of either net's features. O(B^2 d).

    Arguments: `features`, "pooled" (mean over positions) or "flattened"; `dtype`, how the
    flattened maps are stored. Raises ConfigError for others, ShapeError for a batch of one row.
    """

    features: Features = "pooled"
    dtype: Stored = "float16"
    needs_layer: ClassVar[bool] = True
    row_by_row: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_features(self.features, "pkt", self.dtype)

    def targets(self, layer: str | None = None) -> tuple[str, ...]:
        """Name the teacher's features."""
        return (f"{layer}/{self._name()}" if layer else self._name(),)

    def _name(self) -> str:
        return feature_target(self.features, self.dtype)

    def __call__(
        self, *, student: Float[Tensor, batch * map], target: Mapping[str, Tensor]
    ) -> Float[Tensor, ""]:
        """Return L; the target holds the teacher's features (batch, C) or maps (batch, C, H, W)."""
        ours = conditional(cosine_kernel(feature_rows(student, self.features)), diagonal=True)
        rows = feature_rows(target[self._name()], self.features)
        theirs = conditional(cosine_kernel(rows), diagonal=True).to(ours.dtype)
        return (theirs * torch.log((theirs + _EPSILON) / (ours + _EPSILON))).mean()


LOSS = PKT
