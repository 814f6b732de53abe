"""Compiled walks over one image's tree: visiting order, neighbour sums, hop counts.

The sum over all nodes within r hops needs no mask. Going up, each node learns the sums over its
subtree within 0..h hops, h its height; going down, it learns the rest of the tree from its parent,
minus what the parent heard from it. Those below a node of height h ask for no more than the last
h + 1 sums around it, and a leaf, a third of a typical tree, costs one vector. O(N r D) at most for
D values a node. The map is symmetric: it is its own adjoint. What was learned going up serves every
radius.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from geocache.geometry._compile import compiled, kernel

__all__ = ["heights", "hop_counts", "sums_around", "sums_below", "visiting_order"]


@compiled
def visiting_order(parents: Any, order: Any, place_of_parent: Any) -> bool:
    """Write nodes so that parents precede children, and each one's parent's place in that order.

    Returns False when `parents` is not a tree with exactly one root that is its own parent.
    """
    n = parents.shape[0]
    first_child = np.full(n, -1, np.int32)
    next_sibling = np.full(n, -1, np.int32)
    root = -1
    for node in range(n - 1, -1, -1):
        parent = parents[node]
        if parent < 0 or parent >= n:
            return False
        if parent == node:
            if root >= 0:
                return False
            root = node
        else:
            next_sibling[node] = first_child[parent]
            first_child[parent] = node
    if root < 0:
        return False
    order[0] = root
    place_of_parent[0] = 0
    filled = 1
    visited = 0
    while visited < filled:
        child = first_child[order[visited]]
        while child >= 0:
            order[filled] = child
            place_of_parent[filled] = visited
            filled += 1
            child = next_sibling[child]
        visited += 1
    return bool(filled == n)


@compiled
def heights(place_of_parent: Any, radius: int, height: Any) -> None:
    """Write each node's height above its deepest leaf, at most `radius`, rows in visiting order."""
    n = place_of_parent.shape[0]
    for v in range(n):
        height[v] = 0
    for v in range(n - 1, 0, -1):
        parent = place_of_parent[v]
        height[parent] = max(height[parent], min(height[v] + 1, radius))


@compiled
def sums_below(values: Any, place_of_parent: Any, height: Any, below: Any) -> None:
    """Write below[v, d] = sum of values over the subtree of v within d hops, d <= height[v].

    values: (N, D) in visiting order. below: (N, radius + 1, D); leaves are left unwritten.
    """
    # Plain indices, no row views: each view would count references, dearer than the adds.
    n, depth = values.shape
    for v in range(n):
        if height[v] > 0:
            for hop in range(height[v] + 1):
                for k in range(depth):
                    below[v, hop, k] = values[v, k]
    for v in range(n - 1, 0, -1):
        parent, top = place_of_parent[v], height[v]
        if top == 0:
            for hop in range(1, height[parent] + 1):
                for k in range(depth):
                    below[parent, hop, k] += values[v, k]
        else:
            for hop in range(1, height[parent] + 1):
                level = min(hop - 1, top)
                for k in range(depth):
                    below[parent, hop, k] += below[v, level, k]


@compiled
def sums_around(
    values: Any,
    place_of_parent: Any,
    height: Any,
    below: Any,
    radius: int,
    around: Any,
    out: Any,
) -> None:
    """Write out[v] = sum of values[u] over 1 <= hops(u, v) <= radius, rows in visiting order.

    below: from `sums_below` for this radius or a larger one. around: scratch (N, radius + 1, D).
    """
    n, depth = values.shape
    root = min(height[0], radius)
    for hop in range(radius - root, radius + 1):
        level = min(hop, root)
        for k in range(depth):
            around[0, hop, k] = below[0, level, k] if root > 0 else values[0, k]
    for k in range(depth):
        out[0, k] = around[0, radius, k] - values[0, k]
    for v in range(1, n):
        parent, top = place_of_parent[v], min(height[v], radius)
        if top == 0:
            if radius == 1:
                for k in range(depth):
                    out[v, k] = values[parent, k]
            else:
                for k in range(depth):
                    out[v, k] = around[parent, radius - 1, k] - values[v, k]
            continue
        for hop in range(radius - top, radius + 1):
            if hop == 0:
                for k in range(depth):
                    around[v, 0, k] = values[v, k]
            elif hop == 1:
                for k in range(depth):
                    around[v, 1, k] = below[v, 1, k] + around[parent, 0, k]
            elif hop - 2 >= top:
                for k in range(depth):
                    around[v, hop, k] = around[parent, hop - 1, k]
            else:
                level = min(hop, top)
                for k in range(depth):
                    heard = below[v, hop - 2, k]
                    around[v, hop, k] = below[v, level, k] + (around[parent, hop - 1, k] - heard)
        for k in range(depth):
            out[v, k] = around[v, radius, k] - values[v, k]


@kernel
def hop_counts(start: int, stop: int, parents: Any, hops: Any, valid: Any) -> None:
    """Write hops[b, i, j] on the tree; a row is copied from its parent's, plus one outside it."""
    n = parents.shape[1]
    order = np.empty(n, np.int32)
    place = np.empty(n, np.int32)
    for image in range(start, stop):
        valid[image] = visiting_order(parents[image], order, place)
        if not valid[image]:
            continue
        for v in range(n):
            node = order[v]
            hops[image, node, node] = 0
            parent = order[place[v]]
            for w in range(v):
                other = order[w]
                distance = hops[image, parent, other] + 1
                hops[image, node, other] = distance
                hops[image, other, node] = distance
