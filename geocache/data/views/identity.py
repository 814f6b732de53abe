"""Images as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float64, Shaped, UInt8
from torch import Tensor

from geocache.data.views._base import ViewPolicy

__all__ = ["POLICY", "Identity"]


@dataclass(frozen=True)
class Identity(ViewPolicy):
    """Leave images alone; every view is the same."""

    columns: ClassVar[tuple[str, ...]] = ()
    dtype: ClassVar[str] = "int16"
    n_draws: ClassVar[int] = 0

    def parameters(
        self, draws: Float64[np.ndarray, "n draws"], image_shape: tuple[int, int, int]
    ) -> Shaped[np.ndarray, "n columns"]:
        """Return none."""
        return draws

    def apply(
        self, images: UInt8[Tensor, "batch 3 h w"], parameters: Shaped[Tensor, "batch columns"]
    ) -> UInt8[Tensor, "batch 3 h w"]:
        """Return the images themselves."""
        return images


POLICY = Identity
