"""Statistics of channel maps that may be taken on a smaller grid than the layer's.

A student whose grid is smaller than the teacher's meets it there. The map must be interpolated
before the statistic is taken: a stored one cannot be brought to another grid.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from geocache.errors import ConfigError, ShapeError
from geocache.geometry import to_grid
from geocache.targets._base import LocalFeatures, Target, grid_nodes

__all__ = ["InterpolatedTarget"]


@dataclass(frozen=True)
class InterpolatedTarget(Target):
    """A target of a 2-D map, interpolated bilinearly to `grid` (text, `HxW`) where one is given.

    Raises ConfigError for an unreadable grid.
    """

    grid: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is no grid."""
        if self.grid is not None and not re.fullmatch(r"[1-9]\d*x[1-9]\d*", self.grid, re.ASCII):
            raise ConfigError(
                f"{self.kind}'s grid must be HEIGHTxWIDTH, as in {self.kind}:grid=8x8, got "
                f"'{self.grid}'."
            )

    @property
    def array_name(self) -> str:
        """The kind, and `.g8x8` for a grid of its own."""
        return self.kind if self.grid is None else f"{self.kind}.g{self.grid}"

    @classmethod
    def from_suffix(cls, suffix: str) -> Self:
        """Read the grid."""
        if not suffix:
            return cls()
        if not suffix.startswith("g"):
            raise ConfigError(
                f"target '{cls.kind}' takes grid, as in {cls.kind}:grid=8x8, got '{suffix}'."
            )
        return cls(suffix[1:])

    @property
    def parameters(self) -> dict[str, Any]:
        """The grid, where one is given: arrays without it stay as they always were."""
        return {} if self.grid is None else {"grid": self.grid}

    def nodes(self, shape: tuple[int, ...]) -> tuple[int, dict[str, Any]]:
        """Return N and the array's attributes for a layer of `shape`.

        Raises ShapeError when the layer has no grid, or none as large as the one asked for.
        """
        n = grid_nodes(shape, self.kind)
        if self.grid is None:
            return n, {"grid": list(shape[1:])}
        height, width = self._size(self.grid)
        if len(shape) != 3 or height > shape[1] or width > shape[2]:
            raise ShapeError(
                f"target '{self.kind}' must be interpolated to a grid no larger than the layer's, "
                f"got {self.grid} for a layer of {'x'.join(map(str, shape[1:]))}. Choose a smaller "
                "grid, or leave it out."
            )
        return height * width, {"grid": [height, width]}

    def maps(self, features: LocalFeatures) -> Tensor:
        """Return the maps on the grid, at least in float32."""
        x = features.features
        if self.grid is None:
            return x
        return to_grid(x.to(torch.promote_types(x.dtype, torch.float32)), self._size(self.grid))

    @staticmethod
    def _size(grid: str) -> tuple[int, int]:
        height, _, width = grid.partition("x")
        return int(height), int(width)
