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

from geocache.geometry._compile import compiled, over_images
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
    over_images(_prim, x.shape[0], x.numpy(), parents.numpy())
    return parents


@compiled
def _prim(start: int, stop: int, features: Any, parents: Any) -> None:
    n_channels, n = features.shape[1], features.shape[2]
    columns = np.empty((n_channels, n), features.dtype)
    point = np.empty(n_channels, features.dtype)
    fresh = np.empty(n, features.dtype)
    best = np.empty(n, features.dtype)
    partner = np.empty(n, np.int32)
    node = np.empty(n, np.int32)
    for image in range(start, stop):
        x = features[image]
        scale = power_of_two_scale(x)
        # Outside nodes live in slots 0..outside-1; whoever joins is replaced by the last slot.
        outside = n - 1
        for c in range(n_channels):
            point[c] = x[c, 0] * scale
            for s in range(outside):
                columns[c, s] = x[c, s + 1] * scale
        for s in range(outside):
            node[s] = s + 1
            best[s] = np.inf
            partner[s] = 0
        parents[image, 0] = 0
        newest = 0
        while outside > 0:
            distances_from(columns, point, outside, fresh)
            for s in range(outside):
                # At equal distance to the same outside node, the lower tree node makes the lower
                # edge, on either side of it.
                if fresh[s] < best[s] or (fresh[s] == best[s] and newest < partner[s]):
                    best[s] = fresh[s]
                    partner[s] = newest
            chosen = _lowest_edge(best, partner, node, outside)
            newest = node[chosen]
            parents[image, newest] = partner[chosen]
            outside -= 1
            for c in range(n_channels):
                point[c] = columns[c, chosen]
                columns[c, chosen] = columns[c, outside]
            best[chosen] = best[outside]
            partner[chosen] = partner[outside]
            node[chosen] = node[outside]


@compiled
def _lowest_edge(best: Any, partner: Any, node: Any, outside: int) -> int:
    """Return the slot whose edge is first by (delta, lower node, higher node)."""
    chosen = 0
    lowest = best[0]
    for s in range(1, outside):
        if best[s] < lowest:
            lowest = best[s]
            chosen = s
        elif best[s] == lowest:
            low, high = min(partner[s], node[s]), max(partner[s], node[s])
            held_low = min(partner[chosen], node[chosen])
            if low < held_low or (low == held_low and high < max(partner[chosen], node[chosen])):
                chosen = s
    return chosen
