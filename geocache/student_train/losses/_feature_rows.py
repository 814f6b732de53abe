"""Losses that compare the rows of a batch by a vector each: pooled maps, or flattened ones."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from geocache.student_train.losses._activations import Stored
from geocache.student_train.losses._base import Loss
from geocache.student_train.losses._batch_kernels import Features, feature_rows, feature_target

__all__ = ["FeatureRowsLoss"]


class FeatureRowsLoss(Loss):
    """Base of the losses on feature rows; subclasses have the fields and say how rows compare.

    features: "pooled" (mean over positions) or "flattened"; dtype: how flattened maps are stored.
    """

    features: Features
    dtype: Stored
    needs_layer: ClassVar[bool] = True
    row_by_row: ClassVar[bool] = False

    def targets(self, layer: str | None = None) -> tuple[str, ...]:
        """Name the teacher's features."""
        return (f"{layer}/{self._name()}" if layer else self._name(),)

    def _name(self) -> str:
        return feature_target(self.features, self.dtype)

    def __call__(
        self, *, student: Float[Tensor, batch * map], target: Mapping[str, Tensor]
    ) -> Float[Tensor, ""]:
        """Return L; the target holds the teacher's features (batch, C) or maps (batch, C, H, W)."""
        ours = feature_rows(student, self.features)
        theirs = feature_rows(target[self._name()], self.features).to(ours.dtype)
        return self._distance(ours, theirs)

    @abstractmethod
    def _distance(
        self, ours: Float[Tensor, "batch d_ours"], theirs: Float[Tensor, "batch d_theirs"]
    ) -> Float[Tensor, ""]:
        """Return L of the student's and the teacher's rows."""
