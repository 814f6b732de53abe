"""Compiled neighbouring pattern loss and its gradient, image by image.

Only the neighbours' entries are formed. With e_ij = d_S,ij - d_T,ij over the mask, d_ij =
delta_ij / D_i, D_i = sum_j delta_ij and L = |e|_F:

    dL/ddelta_ij = e_ij / (L D_i)          dL/dD_i = b_i = - sum_j e_ij d_S,ij / (L D_i)
    dL/dx_k = sum_ij dL/ddelta_ij 2 (x_i - x_j) (1_ik - 1_jk)
            + 2 [ x_k (N b_k + sum b) - sum_j b_j x_j ]                      (features centred)

An infinite radius walks over all pairs of one image: no N x N x batch array is ever there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from geocache.geometry._affinity_kernels import centre, padded, safe_scale
from geocache.geometry._compile import compiled, compiled_sum, kernel
from geocache.geometry._tree_kernels import visiting_order

__all__ = ["pattern_and_gradient"]


@compiled
def _pairs_on_tree(parents: Any, radius: int, near: Any, hops: Any, count: Any, pairs: Any) -> int:
    """Write every pair (i, j) within `radius` hops once; return their number, -1 for no tree.

    Nodes join in visiting order. Whoever is near a new node's parent is near the new node, one hop
    farther, and nobody else is: each pair costs one look.
    """
    n = parents.shape[0]
    order = np.empty(n, np.int32)
    place = np.empty(n, np.int32)
    if not visiting_order(parents, order, place):
        return -1
    n_pairs = 0
    for v in range(n):
        count[v] = 0
    for v in range(1, n):
        parent = place[v]
        near[v, 0], hops[v, 0] = parent, 1
        n_near = 1
        for e in range(count[parent]):
            if hops[parent, e] < radius:
                near[v, n_near], hops[v, n_near] = near[parent, e], hops[parent, e] + 1
                n_near += 1
        count[v] = n_near
        for e in range(n_near):
            u = near[v, e]
            at = count[u]
            near[u, at], hops[u, at] = v, hops[v, e]
            count[u] = at + 1
            pairs[n_pairs, 0], pairs[n_pairs, 1] = order[u], order[v]
            n_pairs += 1
    return n_pairs


@compiled
def _pairs(kind: int, hood: Any, reach: int, near: Any, hops: Any, count: Any, pairs: Any) -> int:
    """Write the pairs of one image; 0: by hops, 2: all, each both ways at once; 1: by list."""
    if kind == 0:
        return _pairs_on_tree(hood[:, 0], reach, near, hops, count, pairs)
    n = count.shape[0]
    n_pairs = 0
    for i in range(n):
        if kind == 2:
            for j in range(i + 1, n):
                pairs[n_pairs, 0], pairs[n_pairs, 1] = i, j
                n_pairs += 1
        else:
            for e in range(reach):
                pairs[n_pairs, 0], pairs[n_pairs, 1] = i, hood[i, e]
                n_pairs += 1
    return n_pairs


@compiled
def _scratch(kind: int, n: int, reach: int) -> Any:
    """Return scratch for `_pairs`: on a tree, up to all pairs may be near."""
    wide = n if kind == 0 else 1
    room = n * reach if kind == 1 else max(n * (n - 1) // 2, 1)
    near = np.empty((n, wide), np.int32)
    hops = np.empty((n, wide), np.int32)
    return near, hops, np.empty(n, np.int32), np.empty((room, 2), np.uint32)


@compiled_sum
def _squared_distance(rows: Any, i: int, j: int, n: int) -> Any:
    total = rows.dtype.type(0)
    for c in range(n):
        difference = rows[i, c] - rows[j, c]
        total += difference * difference
    return total


@compiled
def _pair(i: int, j: int, n: int) -> int:
    """Return where (i, j) stands in the upper triangle without the diagonal."""
    low, high = min(i, j), max(i, j)
    return low * n - low * (low + 1) // 2 + high - low - 1


@compiled_sum
def _inverse_row_sums(pairs: Any, n: int, inverse: Any) -> None:
    """Write 1 / sum_j delta_ij from the upper triangle; 0 for a constant map."""
    for i in range(n):
        inverse[i] = 0
    at = 0
    for i in range(n):
        own = pairs.dtype.type(0)
        # Views: an index that might be negative, counted from the end, is no vector load.
        row, others = pairs[at : at + n - i - 1], inverse[i + 1 :]
        for j in range(row.shape[0]):
            own += row[j]
            others[j] += row[j]
        inverse[i] += own
        at += row.shape[0]
    for i in range(n):
        inverse[i] = 1 / inverse[i] if inverse[i] > 0 else 0


@compiled
def _spread(rows: Any, n_channels: int, inverse: Any) -> None:
    """Write 1 / sum_j delta_ij of centred rows."""
    n = rows.shape[0]
    total = 0.0
    for i in range(n):
        total += rows[i, n_channels]
    for i in range(n):
        inverse[i] = 1 / (n * rows[i, n_channels] + total)


@kernel
def pattern_and_gradient(
    start: int,
    stop: int,
    features: Any,
    kind: int,
    hoods: Any,
    reach: int,
    distances: Any,
    loss: Any,
    valid: Any,
    gradient: Any,
    scales: Any,
) -> None:
    """Write L (batch,) and, where `gradient` has rows, dL/dfeatures as scales * gradient.

    hoods: parents (batch, N, 1), lists (batch, N, k), or anything for kind 2. distances: the
    teacher's delta_ij for i < j, of any scale. The gradient is 0 where L is 0 and for constant
    maps. Neighbourhoods, distances and the teacher's sums are dear: both come from one walk.
    """
    n_channels, n = features.shape[1], features.shape[2]
    wanted = gradient.shape[0] > 0
    rows = np.zeros((n, padded(n_channels + 2)), features.dtype)
    slopes = np.empty((n, n_channels), features.dtype)
    rest = np.empty(n, features.dtype)
    order = np.arange(n).astype(np.int32)
    near, hops, count, pairs = _scratch(kind, n, reach)
    ours = np.empty(n, features.dtype)
    theirs = np.empty(n, features.dtype)
    for image in range(start, stop):
        n_pairs = _pairs(kind, hoods[image], reach, near, hops, count, pairs)
        valid[image] = n_pairs >= 0
        if not valid[image]:
            continue
        scales[image] = safe_scale(features[image])
        if centre(features[image], order, scales[image], rows):
            ours[:] = 0
        else:
            _spread(rows, n_channels, ours)
        _inverse_row_sums(distances[image], n, theirs)
        slopes[:] = 0
        rest[:] = 0
        total = features.dtype.type(0)
        for e in range(n_pairs):
            i, j = pairs[e, 0], pairs[e, 1]
            delta = _squared_distance(rows, i, j, n_channels)
            target = distances[image, _pair(i, j, n)]
            pattern = delta * ours[i]
            difference = pattern - target * theirs[i]
            total += difference * difference
            slope = difference * ours[i]
            rest[i] -= slope * pattern
            if kind != 1:
                pattern = delta * ours[j]
                difference = pattern - target * theirs[j]
                total += difference * difference
                rest[j] -= difference * ours[j] * pattern
                slope += difference * ours[j]
            if wanted:
                _pull_apart(rows, i, j, slope, n_channels, slopes)
        loss[image] = np.sqrt(total)
        if wanted:
            _finish(rows, rest, loss[image], n_channels, slopes)
            for c in range(n_channels):
                for i in range(n):
                    gradient[image, c, i] = slopes[i, c]


@compiled
def _pull_apart(rows: Any, i: int, j: int, slope: Any, n_channels: int, slopes: Any) -> None:
    """Add slope (x_i - x_j) to the gradient of x_i and take it from that of x_j."""
    # Two loops: in one the compiler must fear that rows i and j overlap.
    for c in range(n_channels):
        slopes[i, c] += slope * (rows[i, c] - rows[j, c])
    for c in range(n_channels):
        slopes[j, c] -= slope * (rows[i, c] - rows[j, c])


@compiled
def _finish(rows: Any, rest: Any, loss: Any, n_channels: int, slopes: Any) -> None:
    """Add what comes through the sums D and divide by L."""
    n = rows.shape[0]
    mean = np.zeros(n_channels, rows.dtype)
    total = rows.dtype.type(0)
    for i in range(n):
        total += rest[i]
        for c in range(n_channels):
            mean[c] += rest[i] * rows[i, c]
    weight = rows.dtype.type(2) / loss if loss > 0 else rows.dtype.type(0)
    for i in range(n):
        own = rows.dtype.type(n) * rest[i] + total
        for c in range(n_channels):
            slopes[i, c] = weight * (slopes[i, c] + rows[i, c] * own - mean[c])
