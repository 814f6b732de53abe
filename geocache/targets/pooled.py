"""The global average of each channel: the image-level feature that batch-kernel losses compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from geocache.targets._base import LocalFeatures, PlainTarget, RowStorage, to_half

__all__ = ["TARGET", "Pooled"]


@dataclass(frozen=True)
class Pooled(PlainTarget):
    """Store the mean over positions as float16; a layer without a grid is stored as it is."""

    kind: ClassVar[str] = "pooled"

    def storage(self, shape: tuple[int, ...]) -> RowStorage:
        """Store (channel,) float16."""
        return RowStorage("float16", shape[:1], ("channel",))

    def compute(self, features: LocalFeatures) -> np.ndarray[Any, Any]:
        """Average over positions, then round; raises NumericError where float16 overflows."""
        x = features.features.float()
        mean = x.flatten(2).mean(dim=2) if x.ndim > 2 else x
        return to_half(mean, features.where, "Rescale the layer.")

    def decode(self, stored: Tensor) -> Tensor:
        """Return float32 features (batch, C)."""
        return stored.float()


TARGET = Pooled
