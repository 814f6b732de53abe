"""The augmentation of ImageNet: a random box, brought to one size, mirrored half the time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float64, Shaped, UInt8
from torch import Tensor

from geocache.data.views._base import ViewPolicy
from geocache.data.views._resample import resample_boxes
from geocache.errors import ConfigError

__all__ = ["POLICY", "ResizedCropFlip"]


@dataclass(frozen=True)
class ResizedCropFlip(ViewPolicy):
    """Take a box of `area` of the image and aspect `aspect`, bring it to `size`, mirror with 1/2.

    Area is uniform, the logarithm of the aspect (width over height) too; a box that does not fit is
    drawn a second time and then cut to the image. Whole pixels, antialiased bilinear. `size` in
    pixels, one number or (height, width); by default the image's own. Raises ConfigError for ranges
    that are none.
    """

    size: int | tuple[int, int] | None = None
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    columns: ClassVar[tuple[str, ...]] = ("top", "left", "height", "width", "flip")
    dtype: ClassVar[str] = "int16"
    n_draws: ClassVar[int] = 7

    def __post_init__(self) -> None:
        """Refuse sizes and ranges that are none."""
        low, high = self.area
        if not 0 < low <= high <= 1:
            raise ConfigError(
                f"resized_crop_flip's area must be a range within 0 to 1, got {list(self.area)}."
            )
        if not 0 < self.aspect[0] <= self.aspect[1] < math.inf:
            raise ConfigError(
                f"resized_crop_flip's aspect must be a range above 0, got {list(self.aspect)}."
            )
        if self.size is not None and min(self._size((1, 1, 3))) < 1:
            raise ConfigError(f"resized_crop_flip's size must be from 1 up, got {self.size}.")

    def _size(self, image_shape: tuple[int, int, int]) -> tuple[int, int]:
        if self.size is None:
            return image_shape[0], image_shape[1]
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def output_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the size asked for."""
        return (*self._size(image_shape), 3)

    def parameters(
        self, draws: Float64[np.ndarray, "n draws"], image_shape: tuple[int, int, int]
    ) -> Shaped[np.ndarray, "n columns"]:
        """Return the box in whole pixels, and 1 where it is mirrored."""
        height, width = image_shape[:2]
        first, second = (self._box(draws[:, 2 * i : 2 * i + 2], height, width) for i in range(2))
        fits = (first[:, 0] <= height) & (first[:, 1] <= width)
        box = np.where(fits[:, None], first, second).clip(1, (height, width))
        room = np.array([height, width]) - box
        place = np.floor(draws[:, 4:6] * (room + 1))
        return np.concatenate([place, box, draws[:, 6:] < 0.5], axis=1).astype(np.int16)

    def _box(
        self, draws: Float64[np.ndarray, "n 2"], height: int, width: int
    ) -> Float64[np.ndarray, "n 2"]:
        low, high = self.area
        area = height * width * (low + draws[:, 0] * (high - low))
        bounds = np.log(self.aspect)
        aspect = np.exp(bounds[0] + draws[:, 1] * (bounds[1] - bounds[0]))
        sides: np.ndarray[Any, Any] = np.stack(
            [np.sqrt(area / aspect), np.sqrt(area * aspect)], axis=1
        )
        np.rint(sides, out=sides)
        return sides

    def whole(self, images: UInt8[Tensor, "batch 3 h w"]) -> UInt8[Tensor, "batch 3 h2 w2"]:
        """Bring whole images to the size asked for."""
        height, width = images.shape[2:]
        size = self._size((height, width, 3))
        if size == (height, width):
            return images
        boxes = torch.tensor([[0, 0, height, width]], device=images.device, dtype=torch.float32)
        return resample_boxes(images, boxes.expand(len(images), -1), size)

    def apply(
        self, images: UInt8[Tensor, "batch 3 h w"], parameters: Shaped[Tensor, "batch columns"]
    ) -> UInt8[Tensor, "batch 3 h2 w2"]:
        """Resample the boxes and mirror."""
        height, width = images.shape[2:]
        views = resample_boxes(images, parameters[:, :4].float(), self._size((height, width, 3)))
        mirrored = (parameters[:, 4] != 0)[:, None, None, None]
        return torch.where(mirrored, views.flip(3), views)


POLICY = ResizedCropFlip
