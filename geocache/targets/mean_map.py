"""The mean of the normalised channel maps: all that linear NST needs of the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from geocache.geometry import normalised_channels
from geocache.targets._base import LocalFeatures, RowStorage, to_half
from geocache.targets._interpolated import InterpolatedTarget

__all__ = ["TARGET", "MeanMap"]


@dataclass(frozen=True)
class MeanMap(InterpolatedTarget):
    """Store (1/C) sum_k f^k, f^k channel k's map at unit length (NST eq 5), as float16.

    `grid`: interpolate the map to `HxW` first, for students with a smaller grid than the teacher's.
    """

    kind: ClassVar[str] = "mean_map"

    def storage(self, shape: tuple[int, ...]) -> RowStorage:
        """Store (node,) float16; needs a grid."""
        n, attributes = self.nodes(shape)
        return RowStorage("float16", (n,), ("node",), attributes)

    def compute(self, features: LocalFeatures) -> np.ndarray[Any, Any]:
        """Average over channels; a map of zeros counts as 0."""
        return to_half(normalised_channels(self.maps(features)).mean(dim=1), features.where, "")

    def decode(self, stored: Tensor) -> Tensor:
        """Return the float32 map (batch, N)."""
        return stored.float()


TARGET = MeanMap
