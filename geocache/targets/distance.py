"""Squared distances between all local features of a map, for neighbouring patterns (GeoReg eq 3).

Divided by the image's largest: squares overflow float16, and a pattern does not depend on scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from geocache.errors import ShapeError
from geocache.geometry import squared_distances
from geocache.targets._base import LocalFeatures, PlainTarget, RowStorage, grid_nodes, to_half

__all__ = ["TARGET", "Distance"]


@dataclass(frozen=True)
class Distance(PlainTarget):
    """Store delta_ij / max delta for i < j, row by row, as float16: relative error 2^-11."""

    kind: ClassVar[str] = "distance"

    def storage(self, shape: tuple[int, ...]) -> RowStorage:
        """Store (pair,); needs a grid of at least two positions."""
        n = grid_nodes(shape, self.kind)
        if n < 2:
            raise ShapeError(
                f"target 'distance' must be measured on at least two positions, got shape {shape}. "
                "Choose a layer with a larger grid."
            )
        return RowStorage("float16", (n * (n - 1) // 2,), ("pair",), {"grid": list(shape[1:])})

    def compute(self, features: LocalFeatures) -> np.ndarray[Any, Any]:
        """Measure, scale and keep the upper triangle."""
        delta = squared_distances(features.features)
        rows, columns = torch.triu_indices(delta.shape[1], delta.shape[2], offset=1)
        pairs = delta[:, rows, columns]
        largest = pairs.amax(dim=1, keepdim=True)
        scaled = torch.where(largest > 0, pairs / largest.clamp_min(1e-45), 0.0)
        return to_half(scaled, features.where, "")

    def decode(self, stored: Tensor) -> Tensor:
        """Return the float32 pairs (batch, N (N - 1) / 2)."""
        return stored.float()


TARGET = Distance
