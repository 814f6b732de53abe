"""Geometry of one image, written slowly from FORMULAS' definitions; features are (channels, n)."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Edge = tuple[int, int]


def squared_distances(features: Array) -> Array:
    """delta_ij = sum_c (x_ci - x_cj)^2, in the features' own precision, channel after channel."""
    n = features.shape[1]
    delta = np.zeros((n, n), features.dtype)
    for channel in features:
        difference = channel[:, None] - channel[None, :]
        delta = delta + difference * difference
    return delta


def normalised_distances(features: Array) -> Array:
    """d_ij = delta_ij / sum_k delta_ik (GeoReg eq 3); a row of zeros stays one."""
    delta = squared_distances(features)
    total = delta.sum(axis=1, keepdims=True)
    return np.divide(delta, total, out=np.zeros_like(delta), where=total > 0)


def minimum_spanning_tree(delta: Array) -> set[Edge]:
    """Kruskal's tree under the order (delta, min(i, j), max(i, j)), as edges (lower, higher)."""
    n = len(delta)
    group = list(range(n))
    edges: set[Edge] = set()
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    for i, j in sorted(pairs, key=lambda pair: (delta[pair], pair)):
        if group[i] != group[j]:
            edges.add((i, j))
            old, new = group[j], group[i]
            group = [new if g == old else g for g in group]
    return edges


def edges_of(parents: Array) -> set[Edge]:
    """The edges of a tree of parents; the root, its own parent, has none."""
    return {(min(i, int(p)), max(i, int(p))) for i, p in enumerate(parents) if i != p}


def tree_hops(edges: set[Edge], n: int) -> Array:
    """g_ij: hops between nodes on a tree (GeoReg eq 7), by breadth-first search from each node."""
    around: list[list[int]] = [[] for _ in range(n)]
    for i, j in edges:
        around[i].append(j)
        around[j].append(i)
    hops = np.full((n, n), -1)
    for start in range(n):
        hops[start, start] = 0
        waiting = deque([start])
        while waiting:
            node = waiting.popleft()
            for other in around[node]:
                if hops[start, other] < 0:
                    hops[start, other] = hops[start, node] + 1
                    waiting.append(other)
    return hops


def nearest_neighbours(delta: Array, k: int) -> Array:
    """The k nearest other nodes of each node, nearest first, ties by index."""
    n = len(delta)
    lists = [sorted((delta[i, j], j) for j in range(n) if j != i)[:k] for i in range(n)]
    return np.array([[j for _, j in row] for row in lists])


def manifold_distance(
    first: Array, second: Array, k: int, radius: int | None, bandwidth: float
) -> float:
    """1 - (Er(G1, M2) / Er(G1, M1) + Er(G2, M1) / Er(G2, M2)) / 2 (GeoReg eq 9-10)."""
    n = first.shape[1]
    if n == 1:
        return 0.0
    weights, masks = [], []
    for x in (first.astype(np.float64), second.astype(np.float64)):
        delta = squared_distances(x)
        lists = nearest_neighbours(delta, k)
        edges = {(min(i, int(j)), max(i, int(j))) for i in range(n) for j in lists[i]}
        scale = bandwidth * sum(delta[edge] for edge in edges) / len(edges)
        weights.append({edge: math.exp(-delta[edge] / scale) if scale else 1.0 for edge in edges})
        hops = tree_hops(minimum_spanning_tree(delta), n)
        masks.append((hops >= 1) & (hops <= (n if radius is None else radius)))

    def efficiency(graph: dict[Edge, float], mask: Array) -> float:
        inside = sum(w for edge, w in graph.items() if mask[edge])
        return inside / sum(graph.values())

    there = efficiency(weights[0], masks[1]) / efficiency(weights[0], masks[0])
    back = efficiency(weights[1], masks[0]) / efficiency(weights[1], masks[1])
    return 1 - (there + back) / 2
