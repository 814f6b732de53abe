"""A dense neighbourhood mask, bit-packed, for programs that read Zarr and know no trees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor

from geocache.errors import ConfigError
from geocache.geometry import knn_mask, tree_mask
from geocache.targets._base import LocalFeatures, RowStorage, Target, grid_nodes, whole_number

__all__ = ["TARGET", "Mask"]


@dataclass(frozen=True)
class Mask(Target):
    """Store m_ij over `radius` hops on the tree (GeoReg eq 7) or the `k` nearest, N^2 / 8 bytes."""

    radius: int | None = None
    k: int | None = None
    kind: ClassVar[str] = "mask"

    def __post_init__(self) -> None:
        """Refuse both or neither."""
        if (self.radius is None) == (self.k is None):
            raise ConfigError("target 'mask' needs either radius or k, as in mask:radius=5.")

    @property
    def array_name(self) -> str:
        """`mask.r5` or `mask.k16`."""
        return f"{self.kind}.{f'r{self.radius}' if self.radius else f'k{self.k}'}"

    @classmethod
    def from_suffix(cls, suffix: str) -> Self:
        """Read the radius or k."""
        if suffix.startswith("r"):
            return cls(radius=whole_number(suffix[1:], "mask's radius"))
        if suffix.startswith("k"):
            return cls(k=whole_number(suffix[1:], "mask's k"))
        raise ConfigError(f"target 'mask' needs radius or k, got '{suffix}'.")

    def storage(self, shape: tuple[int, ...]) -> RowStorage:
        """Store (node, other) booleans, eight to a byte."""
        n = grid_nodes(shape, self.kind)
        if self.k is not None and self.k >= n:
            raise ConfigError(f"mask's k must be below the layer's {n} positions, got {self.k}.")
        attributes = {"grid": list(shape[1:])}
        return RowStorage("bool", (n, n), ("node", "other"), attributes, packed=True)

    def compute(self, features: LocalFeatures) -> np.ndarray[Any, Any]:
        """Return the mask."""
        if self.radius is not None:
            return tree_mask(features.tree, self.radius).cpu().numpy()
        assert self.k is not None
        return knn_mask(features.neighbours(self.k)).cpu().numpy()

    def decode(self, stored: Tensor) -> Tensor:
        """Return the boolean mask (batch, N, N)."""
        return stored


TARGET = Mask
