"""Compiled walks over one image's tree: visiting order, neighbour sums, hop counts.

The sum over all nodes within r hops needs no mask. Going up, each node learns the sums over its
subtree within 0..r hops; going down, it learns the rest of the tree from its parent, minus what the
parent heard from it. A node of height h has at most h + 1 different sums over its subtree, and those
below it ask for no more than the last h + 1 sums around it, so leaves, a third of a typical tree,
cost one vector each. O(N r D) at most for D values a node. The map is symmetric: it is its own
adjoint.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from geocache.geometry._compile import compiled

__all__ = ["heights", "hop_counts", "sums_over_tree", "visiting_order"]


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
    return filled == n


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
def sums_over_tree(
    values: Any, place_of_parent: Any, height: Any, radius: int, below: Any, around: Any, out: Any
) -> None:
    """Write out[v] = sum of values[u] over 1 <= hops(u, v) <= radius, rows in visiting order.

    values, out: (N, D). below, around: scratch (N, radius + 1, D): the sums within d hops over the
    subtree of v, and over the whole tree.
    """
    n, depth = values.shape
    for v in range(n):
        mine = values[v]
        for hop in range(height[v] + 1):
            level = below[v, hop]
            for k in range(depth):
                level[k] = mine[k]
    for v in range(n - 1, 0, -1):
        parent = place_of_parent[v]
        for hop in range(1, height[parent] + 1):
            level, mine = below[parent, hop], below[v, min(hop - 1, height[v])]
            for k in range(depth):
                level[k] += mine[k]
    for hop in range(radius - height[0], radius + 1):
        level, mine = around[0, hop], below[0, min(hop, height[0])]
        for k in range(depth):
            level[k] = mine[k]
    for v in range(1, n):
        parent, top = place_of_parent[v], height[v]
        for hop in range(radius - top, radius + 1):
            level = around[v, hop]
            if hop == 0:
                mine = values[v]
                for k in range(depth):
                    level[k] = mine[k]
                continue
            outer = around[parent, hop - 1]
            if hop == 1:
                mine = below[v, min(1, top)]
                for k in range(depth):
                    level[k] = mine[k] + outer[k]
            elif hop - 2 >= top:
                for k in range(depth):
                    level[k] = outer[k]
            else:
                mine, heard = below[v, min(hop, top)], below[v, hop - 2]
                for k in range(depth):
                    level[k] = mine[k] + (outer[k] - heard[k])
    for v in range(n):
        total, level, mine = out[v], around[v, radius], values[v]
        for k in range(depth):
            total[k] = level[k] - mine[k]


@compiled
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
