"""Trees where ties abound, edge for edge against networkx and SciPy.

Ranks of the edges under the order (delta, min(i, j), max(i, j)) are distinct whole numbers from 1
up: under them every algorithm has one answer, and SciPy, which takes a zero for no edge, sees all.
Features are small whole numbers, so that every distance and every total is exact.
"""

from __future__ import annotations

from collections.abc import Callable

import networkx as nx
import numpy as np
import plain_geometry as plain
import pytest
import scipy.sparse.csgraph
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from geocache.geometry import minimum_spanning_tree, tree_hops
from geocache.targets import LocalFeatures
from geocache.targets.mst import TARGET as MST


def stored_tree(features: Tensor) -> Tensor:
    """What a loss reads: the tree as the cache stores it."""
    rows = MST().compute(LocalFeatures(features, "here"))
    return MST().decode(torch.from_numpy(rows))


BACKENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "float32": minimum_spanning_tree,
    "float64": lambda x: minimum_spanning_tree(x.double()),
    "float16": lambda x: minimum_spanning_tree(x.half()),
    "bfloat16": lambda x: minimum_spanning_tree(x.bfloat16()),
    "scaled": lambda x: minimum_spanning_tree(x * 2.0**-90),
    "shifted": lambda x: minimum_spanning_tree(x + 1024),
    "stored": stored_tree,
}
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def ranks(delta: np.ndarray) -> np.ndarray:
    """Number the edges from 1 in the order (delta, min(i, j), max(i, j)); 0 on the diagonal."""
    i, j = np.triu_indices(len(delta), 1)
    order = np.lexsort((j, i, delta[i, j]))
    out = np.zeros(delta.shape, np.int64)
    out[i[order], j[order]] = np.arange(1, len(i) + 1)
    return out + out.T


def assert_the_tree(features: np.ndarray, parents: Tensor) -> None:
    """Compare one image's tree with networkx's and SciPy's: edges, weight, shape."""
    n = features.shape[1]
    edges = plain.edges_of(parents.numpy())
    delta = plain.squared_distances(features.astype(np.float64))
    tree = nx.Graph()
    tree.add_nodes_from(range(n))
    tree.add_edges_from(edges)
    assert nx.is_connected(tree)
    assert tree.number_of_edges() == n - 1  # with connectedness: no cycle
    if n == 1:
        return
    total = sum(delta[edge] for edge in edges)
    # Both libraries take a zero for no edge: raise every weight by 1, the total by n - 1.
    raised = delta + 1 - np.eye(n)
    graph = nx.from_numpy_array(raised)
    assert graph.number_of_edges() == n * (n - 1) // 2
    for algorithm in ("kruskal", "prim"):
        found = nx.minimum_spanning_tree(graph, algorithm=algorithm)
        assert found.size(weight="weight") - (n - 1) == total
    assert scipy.sparse.csgraph.minimum_spanning_tree(raised).sum() - (n - 1) == total
    ranked = ranks(delta)
    by_networkx = nx.minimum_spanning_tree(nx.from_numpy_array(ranked))
    assert {(min(e), max(e)) for e in by_networkx.edges} == edges
    by_scipy = scipy.sparse.csgraph.minimum_spanning_tree(ranked.astype(np.float64))
    assert {(min(i, j), max(i, j)) for i, j in np.argwhere(by_scipy.toarray())} == edges


def few_points(n: int, n_distinct: int, channels: int) -> np.ndarray:
    rng = np.random.default_rng(n)
    points = rng.integers(-3, 4, (channels, n_distinct))
    return points[:, rng.integers(0, n_distinct, n)]


def lattice(side: int, shuffled: bool) -> np.ndarray:
    points = np.stack(np.divmod(np.arange(side * side), side))
    return points[:, np.random.default_rng(1).permutation(side * side)] if shuffled else points


def dead_background(n: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    maps = np.maximum(rng.integers(-4, 4, (6, n)), 0)
    maps[:, rng.random(n) < 0.6] = 0
    return maps


MAPS = {
    "all alike": np.full((3, 100), 2),
    "two points": few_points(100, 2, 3),
    "four points": few_points(200, 4, 3),
    "many duplicates": few_points(256, 40, 2),
    "one axis": np.arange(64)[None] % 7,
    "lattice": lattice(10, shuffled=False),
    "shuffled lattice": lattice(10, shuffled=True),
    "corners of a cube": np.array(np.unravel_index(np.arange(64) * 37 % 64, (2,) * 6)),
    "equal distances": np.eye(50, dtype=np.int64),
    "dead background": dead_background(144),
    "every channel dead": np.zeros((4, 49), np.int64),
    "two positions": np.array([[1, 1]]),
    "one position": np.array([[1], [2]]),
}


@each_backend
@pytest.mark.parametrize("name", MAPS)
def test_maps_with_ties(name: str, backend: str) -> None:
    features = MAPS[name]
    parents = BACKENDS[backend](torch.from_numpy(features[None]).float())
    assert_the_tree(features, parents[0])


@each_backend
@given(
    features=hnp.arrays(
        np.int64, st.tuples(st.integers(1, 3), st.integers(1, 14)), elements=st.integers(-2, 2)
    )
)
def test_any_small_map(backend: str, features: np.ndarray) -> None:
    parents = BACKENDS[backend](torch.from_numpy(features[None]).float())
    assert_the_tree(features, parents[0])


@pytest.mark.parametrize("name", MAPS)
def test_every_node_reaches_every_other(name: str) -> None:
    features = torch.from_numpy(MAPS[name][None]).float()
    hops = tree_hops(minimum_spanning_tree(features))[0]
    n = len(hops)
    assert (hops >= 0).all() and (hops < n).all()
    assert int((hops == 1).sum()) == 2 * (n - 1)


def test_the_tie_rule_by_hand() -> None:
    # Four corners of a square in the order around it: sides weigh 1, diagonals 2. Of the sides
    # 0-1, 0-3, 1-2, 2-3 the first three in that order make the tree.
    square = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0]]])
    assert minimum_spanning_tree(square).tolist() == [[0, 0, 1, 0]]
    # Duplicates 1, 3 and 0, 2, one apart: edges of weight 0 first, then 0-1 of the four that join.
    pairs = torch.tensor([[[0.0, 1.0, 0.0, 1.0]]])
    assert minimum_spanning_tree(pairs).tolist() == [[0, 0, 0, 1]]
