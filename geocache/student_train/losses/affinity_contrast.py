"""Affinity contrast: each local feature's tie to its neighbourhood follows the teacher's.

The neighbourhood is the teacher's on both sides, so the sufficient target is the tree (or the
neighbour list) and the teacher's J: a few bytes a position, no mask and no activation. J itself
comes from `geometry`, the function that computed the teacher's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from geocache.errors import ConfigError
from geocache.geometry import affinity_contrast
from geocache.student_train.losses._base import Loss
from geocache.student_train.losses._grids import require_positions

__all__ = ["AffinityContrast"]


@dataclass(frozen=True)
class AffinityContrast(Loss):
    """Affinity contrast loss of GeoReg, on one pair of layers.

    `L_AC = sum_i (J_S,i - J_T,i)^2` for one image, mean over the batch (GeoReg eq 8), with
    `J_i = sum_j m_ij delta_ij / sum_j delta_ij` (eq 6) and m the teacher's neighbourhood: the nodes
    within `radius` hops on its minimum spanning tree (eq 7), or the `k` nearest features. The
    printed exponent of eq 8 can be read as a norm and a public implementation by the same group
    takes the mean of squares over i: `reduction="mean"`; default is the sum.

    Invariant to translating, rotating and scaling the student's features, and to its channel
    count. O(N C r) for a radius and O(N C k) for k neighbours an image, no N x N matrix.

    Arguments: exactly one of `radius` >= 1 (hops) and `k` >= 1 (neighbours); `reduction`, "sum" or
    "mean" over the N positions. Raises ConfigError otherwise, and ShapeError when the student's
    grid is not the teacher's.
    """

    radius: int | None = None
    k: int | None = None
    reduction: Literal["sum", "mean"] = "sum"
    needs_layer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if (self.radius is None) == (self.k is None):
            raise ConfigError(
                "affinity_contrast must have exactly one of radius (hops on the spanning tree) and "
                f"k (nearest neighbours), got radius={self.radius} and k={self.k}."
            )
        size = self.k if self.radius is None else self.radius
        if size is None or size < 1:
            raise ConfigError(
                f"affinity_contrast radius or k must be at least 1, got {size}. "
                "The paper uses a radius of 2 to 10 hops."
            )
        if self.reduction not in ("sum", "mean"):
            raise ConfigError(
                f"affinity_contrast reduction must be 'sum' or 'mean', got {self.reduction!r}."
            )

    def targets(self, layer: str | None = None) -> tuple[str, ...]:
        """Name the neighbourhood and the teacher's J for it."""
        prefix = f"{layer}/" if layer else ""
        return tuple(prefix + name for name in self._names())

    def _names(self) -> tuple[str, str]:
        if self.k is not None:
            return f"knn.k{self.k}", f"affinity.k{self.k}"
        return "mst", f"affinity.r{self.radius}"

    def __call__(
        self, *, student: Float[Tensor, "batch channels *grid"], target: Mapping[str, Tensor]
    ) -> Float[Tensor, ""]:
        """Return L_AC of the student's map; `target` holds the arrays of `targets()`.

        The neighbourhood is (batch, N) parents or (batch, N, k) neighbour ids, J is (batch, N).
        """
        neighbourhood, affinity = self._names()
        hood, teacher_j = target[neighbourhood], target[affinity]
        require_positions(student, teacher_j.shape[1], "affinity_contrast")
        student_j = affinity_contrast(
            student,
            parents=hood if self.k is None else None,
            neighbours=hood if self.k is not None else None,
            radius=self.radius,
            k=self.k,
        )
        squares = (student_j - teacher_j.to(student_j.dtype)).square()
        return (squares.sum(1) if self.reduction == "sum" else squares.mean(1)).mean()


LOSS = AffinityContrast
