"""Which stored form of the teacher's activation a loss reads."""

from __future__ import annotations

from typing import Literal

from geocache.errors import ConfigError
from geocache.targets.activation import Activation

__all__ = ["Stored", "activation_target", "refuse_stored"]

Stored = Literal["float16", "float32", "int8"]
"""Element type of the cached activation; int8 has a scale for each image and channel."""


def activation_target(dtype: Stored) -> str:
    """Return the target that holds the activation; raise ConfigError for another type."""
    return Activation(dtype).array_name


def refuse_stored(dtype: Stored, loss: str, other: str) -> None:
    """Raise ConfigError for a type chosen in vain, where the loss reads `other`."""
    if activation_target(dtype) != Activation().array_name:
        raise ConfigError(
            f"{loss} dtype must be left out where it reads the teacher's {other}, got {dtype!r}."
        )
