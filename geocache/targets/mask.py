"""A dense neighbourhood mask, bit-packed, for programs that read Zarr and know no trees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from geocache.geometry import knn_mask, tree_mask
from geocache.targets._base import LocalFeatures, RowStorage
from geocache.targets._neighbourhood import NeighbourhoodTarget
from geocache.targets._stored import StoredRows

__all__ = ["TARGET", "Mask"]


@dataclass(frozen=True)
class Mask(NeighbourhoodTarget):
    """Store m_ij over `radius` hops on the tree (GeoReg eq 7) or the `k` nearest, N^2 / 8 bytes."""

    kind: ClassVar[str] = "mask"

    def storage(self, shape: tuple[int, ...]) -> RowStorage:
        """Store (node, other) booleans, eight to a byte."""
        n = self.nodes(shape)
        attributes = {"grid": list(shape[1:])}
        return RowStorage("bool", (n, n), ("node", "other"), attributes, packed=True)

    def compute(self, features: LocalFeatures) -> np.ndarray[Any, Any]:
        """Return the mask."""
        if self.radius is not None:
            return tree_mask(features.tree, self.radius).cpu().numpy()
        assert self.k is not None
        return knn_mask(features.neighbours(self.k)).cpu().numpy()

    def sources(self) -> tuple[tuple[str, ...], ...]:
        """Follow exactly from the tree or the lists, else from the map."""
        return ((self.neighbourhood_name,), *super().sources())

    def derive(self, stored: StoredRows, sources: tuple[str, ...]) -> np.ndarray[Any, Any]:
        """Draw the mask of a stored tree or list."""
        if sources != (self.neighbourhood_name,):
            return super().derive(stored, sources)
        neighbourhood = stored[self.neighbourhood_name]
        if self.radius is not None:
            return tree_mask(neighbourhood, self.radius).cpu().numpy()
        return knn_mask(neighbourhood).cpu().numpy()

    def decode(self, stored: Tensor) -> Tensor:
        """Return the boolean mask (batch, N, N)."""
        return stored


TARGET = Mask
