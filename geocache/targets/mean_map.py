"""The mean of the normalised channel maps: all that linear NST needs of the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from geocache.geometry import normalised_channels
from geocache.targets._base import LocalFeatures, PlainTarget, RowStorage, grid_nodes, to_half

__all__ = ["TARGET", "MeanMap"]


@dataclass(frozen=True)
class MeanMap(PlainTarget):
    """Store (1/C) sum_k f^k, f^k channel k's map at unit length (NST eq 5), as float16."""

    kind: ClassVar[str] = "mean_map"

    def storage(self, shape: tuple[int, ...]) -> RowStorage:
        """Store (node,) float16; needs a grid."""
        return RowStorage("float16", (grid_nodes(shape, self.kind),), ("node",), _grid(shape))

    def compute(self, features: LocalFeatures) -> np.ndarray[Any, Any]:
        """Average over channels; a map of zeros counts as 0."""
        return to_half(normalised_channels(features.features).mean(dim=1), features.where, "")

    def decode(self, stored: Tensor) -> Tensor:
        """Return the float32 map (batch, N)."""
        return stored.float()


def _grid(shape: tuple[int, ...]) -> dict[str, Any]:
    return {"grid": list(shape[1:])}


TARGET = MeanMap
