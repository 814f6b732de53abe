"""What targets over one neighbourhood share: a radius on the tree, or k nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from geocache.errors import ConfigError
from geocache.targets._base import Target, grid_nodes, whole_number

__all__ = ["NeighbourhoodTarget"]


@dataclass(frozen=True)
class NeighbourhoodTarget(Target):
    """A target over the nodes within `radius` hops on the tree, or over the `k` nearest.

    Raises ConfigError unless exactly one of the two is given, from 1 up.
    """

    radius: int | None = None
    k: int | None = None

    def __post_init__(self) -> None:
        """Refuse both, neither, and what is below 1."""
        if (self.radius is None) == (self.k is None):
            raise ConfigError(
                f"target '{self.kind}' needs either radius or k, as in {self.kind}:radius=5."
            )
        reach = self.k if self.radius is None else self.radius
        if reach is None or reach < 1:
            what = "k" if self.radius is None else "radius"
            raise ConfigError(
                f"{self.kind}'s {what} must be a whole number from 1 up, got {reach}."
            )

    @property
    def array_name(self) -> str:
        """`affinity.r5` or `affinity.k16`, with the target's own kind in front."""
        return f"{self.kind}.{f'k{self.k}' if self.radius is None else f'r{self.radius}'}"

    @property
    def neighbourhood_name(self) -> str:
        """The array of the neighbourhood itself: `mst`, or `knn.k16`."""
        return "mst" if self.k is None else f"knn.k{self.k}"

    @classmethod
    def from_suffix(cls, suffix: str) -> Self:
        """Read the radius or k."""
        if suffix.startswith("r"):
            return cls(radius=whole_number(suffix[1:], f"{cls.kind}'s radius"))
        if suffix.startswith("k"):
            return cls(k=whole_number(suffix[1:], f"{cls.kind}'s k"))
        raise ConfigError(f"target '{cls.kind}' needs radius or k, got '{suffix}'.")

    def nodes(self, shape: tuple[int, ...]) -> int:
        """Return N of a layer; raises ShapeError without a grid, ConfigError where N <= k."""
        n = grid_nodes(shape, self.kind)
        if self.k is not None and self.k >= n:
            raise ConfigError(
                f"{self.kind}'s k must be below the layer's {n} positions, got {self.k}. "
                "Choose a smaller k or a layer with a larger grid."
            )
        return n
