"""Copies of pixels: crops of padded images and their mirror images, bytes by a table, or scaled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geocache.geometry._compile import fused, kernel

__all__ = ["crop", "look_up", "look_up_turned", "scale", "scale_turned"]


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


@fused
def scale(
    first: int,
    last: int,
    images: NDArray[np.uint8],
    factor: NDArray[np.float32],
    shift: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Write byte * factor + shift, by channel, for bytes of (n, 3, h, w)."""
    n = images.shape[2] * images.shape[3]
    for i in range(first, last):
        for c in range(3):
            pixels = images[i, c].reshape(n)
            row = out[i, c].reshape(n)
            for j in range(n):
                row[j] = np.float32(pixels[j]) * factor[c] + shift[c]


@fused
def scale_turned(
    first: int,
    last: int,
    images: NDArray[np.uint8],
    factor: NDArray[np.float32],
    shift: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Do the same for bytes of (n, h, w, 3), into (n, 3, h, w)."""
    n = images.shape[1] * images.shape[2]
    f0, f1, f2 = factor[0], factor[1], factor[2]
    s0, s1, s2 = shift[0], shift[1], shift[2]
    for i in range(first, last):
        pixels = images[i].reshape(3 * n)
        row = out[i].reshape(3 * n)
        for j in range(n):
            row[j] = np.float32(pixels[3 * j]) * f0 + s0
            row[n + j] = np.float32(pixels[3 * j + 1]) * f1 + s1
            row[2 * n + j] = np.float32(pixels[3 * j + 2]) * f2 + s2
