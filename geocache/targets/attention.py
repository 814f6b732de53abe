"""The spatial attention map of a layer (Zagoruyko & Komodakis 2017): N values instead of N C."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor

from geocache.errors import ConfigError
from geocache.geometry import attention_map, unit_length
from geocache.targets._base import (
    LocalFeatures,
    RowStorage,
    Target,
    grid_nodes,
    to_half,
    whole_number,
)

__all__ = ["TARGET", "Attention"]


@dataclass(frozen=True)
class Attention(Target):
    """Store A / |A| with A = sum_c |f_c|^p over the grid, as float16; 0 for a map of zeros."""

    p: int = 2
    kind: ClassVar[str] = "attention"

    def __post_init__(self) -> None:
        """Refuse an exponent below 1."""
        if self.p < 1:
            raise ConfigError(f"attention's p must be a whole number from 1 up, got {self.p}.")

    @property
    def array_name(self) -> str:
        """`attention`, or `attention.p1` for another exponent than 2."""
        return self.kind if self.p == 2 else f"{self.kind}.p{self.p}"

    @classmethod
    def from_suffix(cls, suffix: str) -> Self:
        """Read the exponent."""
        if not suffix:
            return cls()
        if not suffix.startswith("p"):
            raise ConfigError(f"target 'attention' takes p, as in attention:p=1, got '{suffix}'.")
        return cls(whole_number(suffix[1:], "attention's p"))

    def storage(self, shape: tuple[int, ...]) -> RowStorage:
        """Store the grid, so that a student with another one can be compared."""
        grid_nodes(shape, self.kind)
        axes = ("y", "x") if len(shape) == 3 else tuple(f"axis{i}" for i in range(len(shape) - 1))
        return RowStorage("float16", shape[1:], axes)

    def compute(self, features: LocalFeatures) -> np.ndarray[Any, Any]:
        """Sum the powers over channels and normalise; every value is at most 1."""
        x = features.features.float()
        attention = unit_length(attention_map(x, self.p))
        return to_half(attention.view(x.shape[0], *x.shape[2:]), features.where, "")

    def decode(self, stored: Tensor) -> Tensor:
        """Return the float32 map (batch, *grid)."""
        return stored.float()


TARGET = Attention
