"""The unique minimum spanning tree of each image's local features (GeoReg eq 7).

Prim's algorithm over the complete graph, without the graph: distances from the node that has just
joined to the nodes still outside are computed when they are needed, over columns that are kept
compact, so half the distances are never formed and nothing of size N x N is stored. Edges are
ordered by (delta, min(i, j), max(i, j)); under that strict order the tree is unique, whatever
algorithm finds it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from geocache.geometry._compile import compiled, kernel, over_images
from geocache.geometry._distance_kernels import distances_from, power_of_two_scale
from geocache.geometry.features import flatten_grid

__all__ = ["minimum_spanning_tree"]


def minimum_spanning_tree(
    features: Float[Tensor, "batch channels *grid"],
) -> Int[Tensor, "batch n"]:
    """Return the parent of each node in the minimum spanning tree rooted at node 0.

    The weights are squared distances, which give the same tree as distances. Invariant to scaling
    by powers of two exactly, to other scales and shifts up to rounding. O(batch N^2 C) time and
    O(N C) memory an image. features: finite, at least one position. Returns int32 on the CPU, the
    root its own parent.

    Raises ShapeError when the features have no grid.
    """
    x = flatten_grid(features.detach()).cpu().contiguous()
    parents = torch.zeros(x.shape[0], x.shape[2], dtype=torch.int32)
    # Floats from 0 up are ordered like their bits, and only integers have a vector minimum.
    best = torch.empty(x.shape[0], x.shape[2], dtype=x.dtype)
    bits = best.view(torch.int32 if x.dtype == torch.float32 else torch.int64)
    over_images(_prim, x.shape[0], x.numpy(), parents.numpy(), best.numpy(), bits.numpy())
    return parents


@kernel
def _prim(start: int, stop: int, features: Any, parents: Any, bests: Any, bits: Any) -> None:
    n_channels, n = features.shape[1], features.shape[2]
    columns = np.empty((n_channels, n), features.dtype)
    rows = np.empty((n, n_channels), features.dtype)
    fresh = np.empty(n, features.dtype)
    partner = np.empty(n, np.int32)
    node = np.empty(n, np.int32)
    for image in range(start, stop):
        x, best = features[image], bests[image]
        scale = power_of_two_scale(x)
        # Outside nodes live in slots 0..outside-1; whoever joins is replaced by the last slot.
        outside = n - 1
        for c in range(n_channels):
            rows[0, c] = x[c, 0] * scale
            for s in range(outside):
                columns[c, s] = x[c, s + 1] * scale
                rows[s + 1, c] = columns[c, s]
        for s in range(outside):
            node[s] = s + 1
            best[s] = np.inf
            partner[s] = 0
        parents[image, 0] = 0
        newest = 0
        while outside > 0:
            distances_from(columns, rows[newest], outside, fresh)
            _keep_nearer(fresh, newest, outside, best, partner)
            chosen = _lowest_edge(bits[image], partner, node, outside)
            newest = node[chosen]
            parents[image, newest] = partner[chosen]
            outside -= 1
            last = rows[node[outside]]
            for c in range(n_channels):
                columns[c, chosen] = last[c]
            best[chosen] = best[outside]
            partner[chosen] = partner[outside]
            node[chosen] = node[outside]


@compiled
def _keep_nearer(fresh: Any, newest: int, outside: int, best: Any, partner: Any) -> None:
    """Take the newest node as partner where it is nearer, without branches.

    At equal distance to the same outside node, the lower tree node makes the lower edge, on either
    side of it.
    """
    newcomer = np.int32(newest)
    for s in range(outside):
        nearer = (fresh[s] < best[s]) | ((fresh[s] == best[s]) & (newcomer < partner[s]))
        best[s] = fresh[s] if nearer else best[s]
        partner[s] = newcomer if nearer else partner[s]


@compiled
def _lowest_edge(bits: Any, partner: Any, node: Any, outside: int) -> int:
    """Return the slot whose edge is first by (delta, lower node, higher node)."""
    lowest = bits[0]
    for s in range(1, outside):
        lowest = min(lowest, bits[s])
    n_ties = 0
    last = 0
    for s in range(outside):
        equal = bits[s] == lowest
        n_ties += equal
        last = max(last, s if equal else 0)
    if n_ties == 1:
        return last
    chosen = last
    for s in range(outside):
        if bits[s] == lowest:
            low, high = min(partner[s], node[s]), max(partner[s], node[s])
            held_low = min(partner[chosen], node[chosen])
            if low < held_low or (low == held_low and high < max(partner[chosen], node[chosen])):
                chosen = s
    return chosen
