"""Compiled squared distances of one image, each a sequential float sum over channels.

The differences are formed before they are squared, so duplicates are at distance 0 exactly, the
matrix is symmetric to the bit, and any backend that adds the channels in order without fused
multiply-add reproduces it. Features are first scaled by a power of two, which rounds nothing and
keeps squares away from overflow and underflow.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from geocache.geometry._compile import compiled, kernel

__all__ = ["distances_from", "power_of_two_scale"]


@compiled
def power_of_two_scale(x: Any) -> Any:
    """Return 2^-e, e the exponent of the largest difference to position 0; 1 if there is none."""
    n_channels, n = x.shape
    largest = x.dtype.type(0)
    for c in range(n_channels):
        origin = x[c, 0]
        for i in range(n):
            difference = abs(x[c, i] - origin)
            if difference > largest:
                largest = difference
    if largest == 0 or not math.isfinite(largest):
        return x.dtype.type(1)
    exponent = math.frexp(largest)[1]
    return x.dtype.type(math.ldexp(1.0, min(max(-exponent, -120), 120)))


@compiled
def distances_from(columns: Any, point: Any, count: int, out: Any) -> None:
    """Write |columns[:, s] - point|^2 for s < count; four channels a pass save memory traffic."""
    n_channels = columns.shape[0]
    for s in range(count):
        out[s] = 0
    c = 0
    while c + 4 <= n_channels:
        p0, p1, p2, p3 = point[c], point[c + 1], point[c + 2], point[c + 3]
        r0, r1, r2, r3 = columns[c], columns[c + 1], columns[c + 2], columns[c + 3]
        for s in range(count):
            d0 = r0[s] - p0
            d1 = r1[s] - p1
            d2 = r2[s] - p2
            d3 = r3[s] - p3
            out[s] = (((out[s] + d0 * d0) + d1 * d1) + d2 * d2) + d3 * d3
        c += 4
    while c < n_channels:
        p0 = point[c]
        r0 = columns[c]
        for s in range(count):
            d0 = r0[s] - p0
            out[s] = out[s] + d0 * d0
        c += 1


@kernel
def all_distances(start: int, stop: int, features: Any, out: Any) -> None:
    """Write the N x N squared distances of images start..stop-1."""
    n = features.shape[2]
    for image in range(start, stop):
        x = features[image]
        scale = power_of_two_scale(x)
        columns = x * scale
        unscale = 1 / (scale * scale)
        row = np.empty(n, x.dtype)
        for i in range(n):
            distances_from(columns, columns[:, i].copy(), n, row)
            for j in range(n):
                out[image, i, j] = row[j] * unscale
