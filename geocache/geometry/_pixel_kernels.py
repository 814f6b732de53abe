"""Copies of pixels: crops of padded images and their mirror images, and bytes by a table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geocache.geometry._compile import kernel

__all__ = ["crop", "look_up", "look_up_turned"]


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


@kernel
def look_up(
    first: int,
    last: int,
    images: NDArray[np.uint8],
    table: NDArray[Any],
    out: NDArray[Any],
) -> None:
    """Write what the table of its channel, (3, 256), has for each byte of (n, 3, h, w)."""
    channels, height, width = images.shape[1:]
    for i in range(first, last):
        for c in range(channels):
            for y in range(height):
                for x in range(width):
                    out[i, c, y, x] = table[c, images[i, c, y, x]]


@kernel
def look_up_turned(
    first: int,
    last: int,
    images: NDArray[np.uint8],
    table: NDArray[Any],
    out: NDArray[Any],
) -> None:
    """Do the same for bytes of (n, h, w, 3), into (n, 3, h, w)."""
    height, width, channels = images.shape[1:]
    for i in range(first, last):
        for c in range(channels):
            for y in range(height):
                for x in range(width):
                    out[i, c, y, x] = table[c, images[i, y, x, c]]
