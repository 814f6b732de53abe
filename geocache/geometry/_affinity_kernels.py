"""Compiled forward and backward of the affinity contrast J, image by image.

With centred features x_i (distances do not change, float32 loses less), q_i = |x_i|^2 and the
neighbour sums n_i, s_i, y_i of 1, q and x:

    numerator_i   = sum_j m_ij delta_ij = n_i q_i + s_i - 2 x_i . y_i
    denominator_i = sum_j delta_ij      = N q_i + sum_j q_j            (sum_j x_j = 0)
    J_i = numerator_i / denominator_i

For the gradient, with a_i = g_i / denominator_i, b_i = -g_i J_i / denominator_i and M' the adjoint
of the neighbour sum M:

    dL/dx_k = 2 [ x_k (a_k n_k + (M'a)_k) - a_k y_k - (M'(a x))_k ]
            + 2 [ x_k (N b_k + sum b) - sum_j b_j x_j ]
"""

from __future__ import annotations

from typing import Any

import numpy as np

from geocache.geometry._compile import compiled, compiled_sum, kernel
from geocache.geometry._distance_kernels import power_of_two_scale
from geocache.geometry._tree_kernels import (
    heights,
    sums_around,
    sums_below,
    visiting_order,
)

__all__ = [
    "centre",
    "list_backward",
    "list_forward",
    "padded",
    "safe_scale",
    "tree_backward",
    "tree_forward",
]

# A map is constant when its summed distances fall below this part of its summed squares.
_CONSTANT = 1e-12


@compiled_sum
def dot(a: Any, b: Any, n: int) -> Any:
    total = a.dtype.type(0)
    for c in range(n):
        total += a[c] * b[c]
    return total


@compiled_sum
def _sum_from(a: Any, origin: Any, n: int) -> Any:
    total = a.dtype.type(0)
    for i in range(n):
        total += a[i] - origin
    return total


@compiled
def safe_scale(x: Any) -> Any:
    """Return 1 where squares of the values are far from overflow and underflow, else a power of 2.

    Scaling by a power of two rounds nothing, so both ways give the same bits.
    """
    energy = 0.0
    for c in range(x.shape[0]):
        energy += dot(x[c], x[c], x.shape[1])
    if 1e-12 < energy < 1e24:
        return x.dtype.type(1)
    return power_of_two_scale(x)


@compiled
def centre(x: Any, order: Any, scale: Any, rows: Any) -> bool:
    """Write centred, scaled x into rows[:, :C] in `order`, |x|^2 into C; True if x is constant.

    Position 0 is subtracted first: a constant map then becomes exactly 0, rounding or not.
    """
    n_channels, n = x.shape
    energy = 0.0
    for c in range(n_channels):
        channel = x[c]
        origin = channel[0]
        mean = _sum_from(channel, origin, n) / x.dtype.type(n)
        square = channel[0] * scale
        energy += n * square * square
        for v in range(n):
            rows[v, c] = ((channel[order[v]] - origin) - mean) * scale
    spread = 0.0
    for v in range(n):
        row = rows[v]
        square_norm = dot(row, row, n_channels)
        row[n_channels] = square_norm
        spread += square_norm
    return 2.0 * n * spread <= _CONSTANT * (energy + spread) or spread == 0.0


@compiled
def _contrast(rows: Any, sums: Any, order: Any, affinity: Any, n_channels: int) -> None:
    """Write J from rows (x, q, 1) and their neighbour sums (y, s, n)."""
    n = rows.shape[0]
    spread = 0.0
    for v in range(n):
        spread += rows[v, n_channels]
    for v in range(n):
        row, total = rows[v], sums[v]
        square = row[n_channels]
        numerator = total[n_channels + 1] * square + total[n_channels]
        numerator -= 2 * dot(row, total, n_channels)
        affinity[order[v]] = min(max(numerator / (n * square + spread), 0.0), 1.0)


@compiled
def _weights(
    rows: Any, order: Any, affinity: Any, outer: Any, n_channels: int, weighted: Any, rest: Any
) -> None:
    """Write a_i x_i and a_i into `weighted`, b_i into `rest`."""
    n = rows.shape[0]
    spread = 0.0
    for v in range(n):
        spread += rows[v, n_channels]
    for v in range(n):
        denominator = rows.dtype.type(n * rows[v, n_channels] + spread)
        # A float64 here would turn the vector loops below into conversions.
        a = outer[order[v]] / denominator
        rest[v] = -a * affinity[order[v]]
        for c in range(n_channels):
            weighted[v, c] = a * rows[v, c]
        weighted[v, n_channels] = a


@compiled
def _gradient(
    rows: Any,
    sums: Any,
    weighted: Any,
    adjoint: Any,
    rest: Any,
    order: Any,
    scale: Any,
    n_channels: int,
    mean: Any,
    grad: Any,
) -> None:
    n = rows.shape[0]
    rest_total = 0.0
    for c in range(n_channels):
        mean[c] = 0
    for v in range(n):
        rest_total += rest[v]
        for c in range(n_channels):
            mean[c] += rest[v] * rows[v, c]
    twice = scale + scale
    for v in range(n):
        a = weighted[v, n_channels]
        slope = rows.dtype.type(
            a * sums[v, n_channels + 1] + adjoint[v, n_channels] + n * rest[v] + rest_total
        )
        row, total, back = rows[v], sums[v], adjoint[v]
        for c in range(n_channels):
            back[c] = twice * (row[c] * slope - a * total[c] - back[c] - mean[c])
    # Turned over channel by channel: the writes then stay within one short row.
    for c in range(n_channels):
        channel = grad[c]
        for v in range(n):
            channel[order[v]] = adjoint[v, c]


@compiled
def padded(depth: int) -> int:
    """Round a row up to whole vector registers of eight floats."""
    return (depth + 7) // 8 * 8


@kernel
def tree_forward(
    start: int,
    stop: int,
    features: Any,
    parents: Any,
    radii: Any,
    affinity: Any,
    valid: Any,
    kept: Any,
) -> None:
    """Write J (batch, radius, N) over tree neighbourhoods for every radius in `radii`.

    valid[b] is False where parents is no tree. kept: the neighbour sums of a single radius, for the
    backward; empty where none is to follow.
    """
    n_channels, n = features.shape[1], features.shape[2]
    widest = radii.max()
    depth = padded(n_channels + 2)
    rows = np.zeros((n, depth), features.dtype)
    sums = np.empty((n, depth), features.dtype)
    below = np.empty((n, widest + 1, depth), features.dtype)
    around = np.empty((n, widest + 1, depth), features.dtype)
    height = np.empty(n, np.int32)
    order = np.empty(n, np.int32)
    place = np.empty(n, np.int32)
    for image in range(start, stop):
        valid[image] = visiting_order(parents[image], order, place)
        scale = safe_scale(features[image])
        if not valid[image] or centre(features[image], order, scale, rows):
            affinity[image] = 0
            continue
        rows[:, n_channels + 1] = 1
        heights(place, widest, height)
        sums_below(rows, place, height, below)
        for i in range(radii.shape[0]):
            out = kept[image] if kept.shape[0] else sums
            sums_around(rows, place, height, below, radii[i], around, out)
            _contrast(rows, out, order, affinity[image, i], n_channels)


@kernel
def tree_backward(
    start: int,
    stop: int,
    features: Any,
    parents: Any,
    radius: int,
    affinity: Any,
    kept: Any,
    outer: Any,
    grad: Any,
) -> None:
    """Write dL/dfeatures from outer = dL/dJ and the neighbour sums that the forward kept."""
    n_channels, n = features.shape[1], features.shape[2]
    depth = padded(n_channels + 2)
    rows = np.zeros((n, depth), features.dtype)
    weighted = np.zeros((n, depth), features.dtype)
    adjoint = np.empty((n, depth), features.dtype)
    below = np.empty((n, radius + 1, depth), features.dtype)
    around = np.empty((n, radius + 1, depth), features.dtype)
    height = np.empty(n, np.int32)
    rest = np.empty(n, features.dtype)
    mean = np.empty(n_channels, features.dtype)
    order = np.empty(n, np.int32)
    place = np.empty(n, np.int32)
    for image in range(start, stop):
        scale = safe_scale(features[image])
        visiting_order(parents[image], order, place)
        if centre(features[image], order, scale, rows):
            grad[image] = 0
            continue
        heights(place, radius, height)
        _weights(rows, order, affinity[image], outer[image], n_channels, weighted, rest)
        sums_below(weighted, place, height, below)
        sums_around(weighted, place, height, below, radius, around, adjoint)
        sums = kept[image]
        _gradient(rows, sums, weighted, adjoint, rest, order, scale, n_channels, mean, grad[image])


@compiled
def _sums_over_lists(values: Any, neighbours: Any, k: int, out: Any) -> None:
    depth = values.shape[1]
    for v in range(values.shape[0]):
        total = out[v]
        for d in range(depth):
            total[d] = 0
        for e in range(k):
            other = values[neighbours[v, e]]
            for d in range(depth):
                total[d] += other[d]


@compiled
def _spread_over_lists(values: Any, neighbours: Any, k: int, out: Any) -> None:
    """Write the adjoint: each node hands its values to the nodes on its list."""
    depth = values.shape[1]
    out[:] = 0
    for v in range(values.shape[0]):
        mine = values[v]
        for e in range(k):
            total = out[neighbours[v, e]]
            for d in range(depth):
                total[d] += mine[d]


@kernel
def list_forward(
    start: int, stop: int, features: Any, neighbours: Any, k: int, affinity: Any
) -> None:
    """Write J (batch, N) over the first k of each node's neighbour list."""
    n_channels, n = features.shape[1], features.shape[2]
    rows = np.empty((n, n_channels + 2), features.dtype)
    sums = np.empty((n, n_channels + 2), features.dtype)
    order = np.arange(n).astype(np.int32)
    for image in range(start, stop):
        scale = safe_scale(features[image])
        if centre(features[image], order, scale, rows):
            affinity[image, :] = 0
            continue
        rows[:, n_channels + 1] = 1
        _sums_over_lists(rows, neighbours[image], k, sums)
        _contrast(rows, sums, order, affinity[image], n_channels)


@kernel
def list_backward(
    start: int,
    stop: int,
    features: Any,
    neighbours: Any,
    k: int,
    affinity: Any,
    outer: Any,
    grad: Any,
) -> None:
    """Write dL/dfeatures from outer = dL/dJ for neighbour lists."""
    n_channels, n = features.shape[1], features.shape[2]
    rows = np.empty((n, n_channels + 2), features.dtype)
    sums = np.empty((n, n_channels + 2), features.dtype)
    weighted = np.empty((n, n_channels + 1), features.dtype)
    adjoint = np.empty((n, n_channels + 1), features.dtype)
    rest = np.empty(n, features.dtype)
    mean = np.empty(n_channels, features.dtype)
    order = np.arange(n).astype(np.int32)
    for image in range(start, stop):
        scale = safe_scale(features[image])
        if centre(features[image], order, scale, rows):
            grad[image] = 0
            continue
        rows[:, n_channels + 1] = 1
        _sums_over_lists(rows, neighbours[image], k, sums)
        _weights(rows, order, affinity[image], outer[image], n_channels, weighted, rest)
        _spread_over_lists(weighted, neighbours[image], k, adjoint)
        _gradient(rows, sums, weighted, adjoint, rest, order, scale, n_channels, mean, grad[image])
