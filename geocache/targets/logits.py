"""The teacher's logits: all that knowledge distillation needs (2K bytes a row)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from geocache.errors import ShapeError
from geocache.targets._base import LocalFeatures, PlainTarget, RowStorage, to_half

__all__ = ["TARGET", "Logits"]


@dataclass(frozen=True)
class Logits(PlainTarget):
    """Store the K logits as float16: relative error 2^-11."""

    kind: ClassVar[str] = "logits"
    needs_layer: ClassVar[bool] = False

    def storage(self, shape: tuple[int, ...]) -> RowStorage:
        """Store (class,) float16; raises ShapeError when the output is not one vector an image."""
        if len(shape) != 1:
            raise ShapeError(
                f"the teacher's output must be one vector of logits an image, got shape {shape}. "
                "Leave 'logits' out, or use a classifier."
            )
        return RowStorage("float16", shape, ("class",))

    def compute(self, features: LocalFeatures) -> np.ndarray[Any, Any]:
        """Round the logits to float16; raises NumericError beyond its range."""
        return to_half(features.features, features.where, "Rescale the teacher's output layer.")

    def decode(self, stored: Tensor) -> Tensor:
        """Return float32 logits (batch, K)."""
        return stored.float()


TARGET = Logits
