"""Neighbouring pattern: normalised distances to the teacher's neighbours follow the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from geocache.errors import ConfigError
from geocache.geometry import pattern_difference
from geocache.student_train.losses._base import Loss
from geocache.student_train.losses._grids import require_positions

__all__ = ["NeighbouringPattern"]


@dataclass(frozen=True)
class NeighbouringPattern(Loss):
    """Neighbouring pattern loss of GeoReg (eq 3-5), on one pair of layers.

    `L_NP = |(D_S o M) - (D_T o M)|_F` for one image, mean over the batch, with `d_ij = delta_ij /
    sum_k delta_ik`. The norm, not its square; gradient 0 at 0. M is the teacher's neighbourhood:
    nodes within `radius` hops on its tree, the `k` nearest, or with neither all pairs (the paper's
    infinite radius), image by image without an N x N matrix.

    Invariant to translating, rotating and scaling the student's features, and to its channel
    count. O(N n C + N^2) an image for n neighbours.

    Arguments: at most one of `radius` >= 1 and `k` >= 1. Raises ConfigError otherwise, ShapeError
    when the student's grid is not the teacher's.
    """

    radius: int | None = None
    k: int | None = None
    needs_layer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.radius is not None and self.k is not None:
            raise ConfigError("neighbouring_pattern must have at most one of radius and k.")
        for name, value in (("radius", self.radius), ("k", self.k)):
            if value is not None and value < 1:
                raise ConfigError(f"neighbouring_pattern {name} must be at least 1, got {value}.")

    def targets(self, layer: str | None = None) -> tuple[str, ...]:
        """Name the teacher's distances and, unless all pairs count, its neighbourhood."""
        prefix = f"{layer}/" if layer else ""
        return tuple(prefix + name for name in (*self._hood(), "distance"))

    def _hood(self) -> tuple[str, ...]:
        if self.radius is not None:
            return ("mst",)
        return () if self.k is None else (f"knn.k{self.k}",)

    def __call__(
        self, *, student: Float[Tensor, "batch channels *grid"], target: Mapping[str, Tensor]
    ) -> Float[Tensor, ""]:
        """Return L_NP of the student's map; `target` holds the arrays of `targets()`.

        The distances are delta_ij for i < j, (batch, N (N - 1) / 2), of any scale.
        """
        distances = target["distance"]
        n_teacher = round((1 + (1 + 8 * distances.shape[1]) ** 0.5) / 2)
        require_positions(student, n_teacher, "neighbouring_pattern")
        return pattern_difference(
            student,
            distances=distances,
            parents=None if self.radius is None else target["mst"],
            neighbours=None if self.k is None else target[f"knn.k{self.k}"],
            radius=self.radius,
            k=self.k,
        ).mean()


LOSS = NeighbouringPattern
