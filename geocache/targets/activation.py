"""The raw activation of a layer, for losses that cannot do with less and for later derivations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor

from geocache.errors import ConfigError
from geocache.targets._base import LocalFeatures, RowStorage, Target, to_half

__all__ = ["TARGET", "Activation"]


@dataclass(frozen=True)
class Activation(Target):
    """Store the map (C, H, W) as float16 (default) or float32."""

    dtype: str = "float16"
    kind: ClassVar[str] = "activation"

    def __post_init__(self) -> None:
        """Refuse other types."""
        if self.dtype not in ("float16", "float32"):
            raise ConfigError(f"activation's dtype must be float16 or float32, got '{self.dtype}'.")

    @property
    def array_name(self) -> str:
        """`activation` or `activation.float32`."""
        return self.kind if self.dtype == "float16" else f"{self.kind}.{self.dtype}"

    @classmethod
    def from_suffix(cls, suffix: str) -> Self:
        """Read the element type."""
        return cls(suffix or "float16")

    def storage(self, shape: tuple[int, ...]) -> RowStorage:
        """Store the shape of the tapped tensor."""
        axes = ("channel", "y", "x") if len(shape) == 3 else ("channel", *_axes(len(shape) - 1))
        return RowStorage(self.dtype, shape, axes)

    def compute(self, features: LocalFeatures) -> np.ndarray[Any, Any]:
        """Round to the stored type; raises NumericError where float16 overflows."""
        if self.dtype == "float32":
            return features.features.float().cpu().numpy()
        return to_half(features.features, features.where, "Store it as activation:dtype=float32.")

    def sources(self) -> tuple[tuple[str, ...], ...]:
        """Follow from the exact map alone."""
        return (("activation.float32",),) if self.dtype != "float32" else ()

    def decode(self, stored: Tensor) -> Tensor:
        """Return the float32 map (batch, C, H, W)."""
        return stored.float()


def _axes(n: int) -> tuple[str, ...]:
    return tuple(f"axis{i}" for i in range(n))


TARGET = Activation
