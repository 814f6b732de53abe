"""What each loss compares with, in float64 from a teacher's float32 output, by the formulas."""

from __future__ import annotations

import math
import re
from collections import deque
from typing import Any

import numpy as np
import plain_geometry
import plain_losses
import plain_transfer
from numpy.typing import NDArray

Array = NDArray[Any]


def plain_target(name: str, output: Array) -> Array:
    """Return target `name` of a batch: `output` is the layer's maps (B, C, H, W), or the logits."""
    return np.stack([_of_one(name, row) for row in output])


def _of_one(name: str, x: Array) -> Array:
    kind, _, parameters = name.partition(".")
    wide = x.astype(np.float64)
    if kind == "logits":
        return top_logits(wide, parameters) if parameters else wide
    if kind == "activation":
        return wide
    if kind == "pooled":
        return wide.reshape(len(x), -1).mean(axis=1)
    if kind == "attention":
        p = int(parameters.removeprefix("p") or 2)
        return plain_transfer.attention(wide, p).reshape(x.shape[1:])
    nodes = x.reshape(len(x), -1)
    if kind in ("mean_map", "gram"):
        f = [plain_transfer.unit(channel) for channel in nodes.astype(np.float64)]
        return sum(f if kind == "mean_map" else map(np.outer, f, f)) / len(f)
    if kind == "distance":
        delta = plain_geometry.squared_distances(nodes.astype(np.float64))
        return delta[np.triu_indices(len(delta), 1)] / delta.max()
    if kind == "mst":
        return tree(nodes)
    if kind == "knn":
        return neighbours(nodes, int(parameters.removeprefix("k")))
    assert kind == "affinity"
    return plain_losses.affinity(nodes.astype(np.float64), mask(nodes, parameters))


def tree(nodes: Array) -> Array:
    """Parents of the minimum spanning tree of float32 features, node 0 the root."""
    edges = plain_geometry.minimum_spanning_tree(plain_geometry.squared_distances(nodes))
    around: dict[int, list[int]] = {i: [] for i in range(nodes.shape[1])}
    for i, j in edges:
        around[i].append(j)
        around[j].append(i)
    parents = np.full(nodes.shape[1], -1)
    parents[0], waiting = 0, deque([0])
    while waiting:
        node = waiting.popleft()
        for other in around[node]:
            if parents[other] < 0:
                parents[other] = node
                waiting.append(other)
    return parents


def neighbours(nodes: Array, k: int) -> Array:
    """The k nearest features of each, measured in the features' float32."""
    return plain_geometry.nearest_neighbours(plain_geometry.squared_distances(nodes), k)


def mask(nodes: Array, reach: str) -> NDArray[np.bool_]:
    """m_ij within `r2` hops on the tree, of the `k3` nearest, or of all others (``)."""
    if reach.startswith("r"):
        return plain_losses.hop_mask(tree(nodes), int(reach[1:]))
    if reach.startswith("k"):
        return plain_losses.list_mask(neighbours(nodes, int(reach[1:])))
    return ~np.eye(nodes.shape[1], dtype=np.bool_)


def top_logits(logits: Array, parameters: str) -> Array:
    """The largest logits, their classes, and log sum_rest exp(t / T), as `top3.t4` asks."""
    found = re.fullmatch(r"top(\d+)\.t(.+)", parameters)
    assert found
    order = sorted(range(len(logits)), key=lambda c: (-logits[c], c))
    top, rest = order[: int(found[1])], order[int(found[1]) :]
    mass = math.log(sum(math.exp(logits[c] / float(found[2])) for c in rest))
    return np.array([*logits[top], *top, mass])
