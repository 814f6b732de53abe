"""The raw activation of a layer, for losses that cannot do with less and for later derivations.

As `int8` each channel of each image has its own scale: 8-bit codes between its lowest and its
highest value. A map of 64 channels takes half of float16's bytes, and far less once compressed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from geocache.errors import ConfigError, NumericError, ShapeError
from geocache.targets._base import LocalFeatures, RowStorage, Target, to_half

__all__ = ["TARGET", "Activation"]

_HEADER = 8
"""Bytes before a channel's codes: its lowest value and its step, float32, little-endian."""


@dataclass(frozen=True)
class Activation(Target):
    """Store the map (C, H, W) as float16 (default), float32 or int8.

    int8: `x ~ lowest + code * step`, `step = (max - min) / 255` rounded up to float32, for each
    image and channel. The error is at most half a step, (max - min) / 510 and float32's rounding.
    Constant channels are exact, and so are the zeros of channels whose minimum is 0 (any after a
    ReLU). Such rows are decoded by what `for_array` returns, since only the array knows its grid.
    """

    dtype: str = "float16"
    kind: ClassVar[str] = "activation"

    def __post_init__(self) -> None:
        """Refuse other types."""
        if self.dtype not in ("float16", "float32", "int8"):
            raise ConfigError(
                f"activation's dtype must be float16, float32 or int8, got '{self.dtype}'."
            )

    @property
    def array_name(self) -> str:
        """`activation`, `activation.float32` or `activation.int8`."""
        return self.kind if self.dtype == "float16" else f"{self.kind}.{self.dtype}"

    @classmethod
    def from_suffix(cls, suffix: str) -> Self:
        """Read the element type."""
        return cls(suffix or "float16")

    def storage(self, shape: tuple[int, ...]) -> RowStorage:
        """Store the shape of the tapped tensor, or (channel, 8 + N) bytes.

        Raises ShapeError for int8 without a grid: a vector would take 9 bytes a value.
        """
        if self.dtype != "int8":
            axes = ("channel", "y", "x") if len(shape) == 3 else ("channel", *_axes(len(shape) - 1))
            return RowStorage(self.dtype, shape, axes)
        if len(shape) < 2:
            raise ShapeError(
                "target 'activation' as int8 must be measured on a layer with a spatial grid, got "
                f"shape {shape}, where it takes 9 bytes a value. Store it as float16."
            )
        n_bytes = _HEADER + math.prod(shape[1:])
        columns = {
            "lowest": {"bytes": [0, 4], "data_type": "float32", "endian": "little"},
            "step": {"bytes": [4, 8], "data_type": "float32", "endian": "little"},
            "code": {"bytes": [8, n_bytes], "data_type": "uint8"},
        }
        about = {"grid": list(shape[1:]), "columns": columns, "value": "lowest + code * step"}
        return RowStorage("uint8", (shape[0], n_bytes), ("channel", "byte"), about)

    def for_array(self, attributes: Mapping[str, Any]) -> Target:
        """Return a decoder that knows the array's grid."""
        return _OnGrid(self.dtype, tuple(attributes["grid"])) if self.dtype == "int8" else self

    def compute(self, features: LocalFeatures) -> np.ndarray[Any, Any]:
        """Round to the stored type; raises NumericError where it overflows."""
        if self.dtype == "float32":
            return features.features.float().cpu().numpy()
        if self.dtype == "int8":
            return _encode(features)
        return to_half(features.features, features.where, "Store it as activation:dtype=float32.")

    def sources(self) -> tuple[tuple[str, ...], ...]:
        """Follow from the exact map alone."""
        return (("activation.float32",),) if self.dtype != "float32" else ()

    def decode(self, stored: Tensor) -> Tensor:
        """Return the float32 map (batch, C, H, W); raises ShapeError for int8 without a grid."""
        if self.dtype == "int8":
            raise ShapeError(
                "int8 activations must be decoded on their array's grid, got none. Decode with "
                "cache.decoder(NAME), or with for_array(attributes)."
            )
        return stored.float()


@dataclass(frozen=True)
class _OnGrid(Activation):
    """Reads int8 rows whose grid is known."""

    grid: tuple[int, ...] = ()

    def decode(self, stored: Tensor) -> Tensor:
        # Copied also where it is contiguous: four bytes are read as a float from aligned places.
        header = stored[:, :, :_HEADER].clone(memory_format=torch.contiguous_format)
        lowest, step = header.view(torch.float32).split_with_sizes((1, 1), dim=2)
        values = stored[:, :, _HEADER:].float()
        # Not fused, so that it rounds alike on every device and in every batch.
        values.mul_(step).add_(lowest)
        return values.view(*stored.shape[:2], *self.grid)


def _encode(features: LocalFeatures) -> np.ndarray[Any, Any]:
    # In float64 throughout: float32 would put values on the edge of a step on its wrong side.
    x = features.features.float().flatten(2).double()
    lowest, highest = x.amin(2, keepdim=True), x.amax(2, keepdim=True)
    exact = (highest - lowest) / 255
    step = exact.float()
    # Rounded up, so that 255 steps reach the highest value even where float32 has few digits.
    step = torch.where(step < exact, step.nextafter(step.new_tensor(math.inf)), step)
    if not bool(torch.isfinite(step * 255).all()):
        raise NumericError(
            f"a channel's range must fit float32, got {float((highest - lowest).max()):.6g} "
            f"({features.where}). Store it as activation:dtype=float32."
        )
    divisor = torch.where(step > 0, step, torch.ones_like(step))
    codes = ((x - lowest) / divisor).round_().to(torch.uint8)
    header = torch.cat((lowest.float(), step), dim=2).view(torch.uint8)
    return torch.cat((header, codes), dim=2).cpu().numpy()


def _axes(n: int) -> tuple[str, ...]:
    return tuple(f"axis{i}" for i in range(n))


TARGET = Activation
