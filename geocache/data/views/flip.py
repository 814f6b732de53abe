"""Mirror half of the views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float64, Shaped, UInt8
from torch import Tensor

from geocache.data.views._base import ViewPolicy
from geocache.data.views._crop import crop_and_flip

__all__ = ["POLICY", "Flip"]


@dataclass(frozen=True)
class Flip(ViewPolicy):
    """Mirror left and right with probability 1/2; exact pixels."""

    columns: ClassVar[tuple[str, ...]] = ("flip",)
    dtype: ClassVar[str] = "int16"
    n_draws: ClassVar[int] = 1

    def parameters(
        self, draws: Float64[np.ndarray, "n draws"], image_shape: tuple[int, int, int]
    ) -> Shaped[np.ndarray, "n columns"]:
        """Return 1 where an image is mirrored."""
        return (draws < 0.5).astype(np.int16)

    def apply(
        self, images: UInt8[Tensor, "batch 3 h w"], parameters: Shaped[Tensor, "batch columns"]
    ) -> UInt8[Tensor, "batch 3 h w"]:
        """Mirror those images."""
        still = parameters.new_zeros(len(images))
        return crop_and_flip(images, still, still, parameters[:, 0], pad=0)


POLICY = Flip
