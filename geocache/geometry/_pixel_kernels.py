"""Copies of pixels: crops of padded images and their mirror images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geocache.geometry._compile import kernel

__all__ = ["crop"]


@kernel
def crop(
    first: int,
    last: int,
    images: NDArray[np.uint8],
    place: NDArray[np.int64],
    pad: int,
    out: NDArray[np.uint8],
) -> None:
    """Copy the crop at `place` (top, left in the padded image, mirrored) of each image."""
    channels, height, width = images.shape[1:]
    for i in range(first, last):
        down = place[i, 0] - pad
        right = place[i, 1] - pad
        flip = place[i, 2] != 0
        for c in range(channels):
            for y in range(height):
                source = y + down
                if source < 0 or source >= height:
                    for x in range(width):
                        out[i, c, y, x] = 0
                    continue
                for x in range(width):
                    column = (width - 1 - x if flip else x) + right
                    inside = 0 <= column < width
                    out[i, c, y, x] = images[i, c, source, column] if inside else 0
