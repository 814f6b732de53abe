"""The augmentation of CIFAR: pad with black, crop back to size at a random place, mirror half."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float64, Shaped, UInt8
from torch import Tensor

from geocache.data.views._base import ViewPolicy
from geocache.data.views._crop import crop_and_flip
from geocache.errors import ConfigError

__all__ = ["POLICY", "CropFlip"]


@dataclass(frozen=True)
class CropFlip(ViewPolicy):
    """Shift by up to `pad` pixels each way, uniformly, black coming in, and mirror with 1/2.

    Exact: every pixel is one of the image or 0. Raises ConfigError for a pad outside 0 to 1000.
    """

    pad: int = 4
    columns: ClassVar[tuple[str, ...]] = ("top", "left", "flip")
    dtype: ClassVar[str] = "int16"
    n_draws: ClassVar[int] = 3

    def __post_init__(self) -> None:
        """Refuse a pad that is none."""
        if not 0 <= self.pad <= 1000:
            raise ConfigError(f"crop_flip's pad must be from 0 to 1000 pixels, got {self.pad}.")

    def parameters(
        self, draws: Float64[np.ndarray, "n draws"], image_shape: tuple[int, int, int]
    ) -> Shaped[np.ndarray, "n columns"]:
        """Return the place of the crop in the padded image, and 1 where it is mirrored."""
        place = np.floor(draws[:, :2] * (2 * self.pad + 1))
        return np.concatenate([place, draws[:, 2:] < 0.5], axis=1).astype(np.int16)

    def apply(
        self, images: UInt8[Tensor, "batch 3 h w"], parameters: Shaped[Tensor, "batch columns"]
    ) -> UInt8[Tensor, "batch 3 h w"]:
        """Crop and mirror the batch."""
        top, left, flip = parameters.unbind(1)
        return crop_and_flip(images, top, left, flip, pad=self.pad)


POLICY = CropFlip
