"""The tree is the unique one of FORMULAS, whatever the ties, the scale and the threads."""

from __future__ import annotations

import networkx as nx
import numpy as np
import plain_geometry as plain
import pytest
import scipy.sparse.csgraph
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from plain_losses import hop_mask
from torch import Tensor

from geocache.errors import ConfigError, ShapeError
from geocache.geometry import (
    minimum_spanning_tree,
    neighbour_counts,
    squared_distances,
    tree_hops,
    tree_mask,
)


def noise(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def assert_trees(features: Tensor) -> None:
    """Compare every image's tree with Kruskal's."""
    parents = minimum_spanning_tree(features)
    assert parents.dtype == torch.int32
    assert parents.shape == (features.shape[0], features[0, 0].numel())
    for x, found in zip(features.flatten(2).numpy(), parents.numpy(), strict=True):
        assert found[0] == 0
        assert plain.edges_of(found) == plain.minimum_spanning_tree(plain.squared_distances(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "channels"), [(1, 3), (2, 1), (3, 5), (17, 4), (64, 33), (100, 2)])
def test_tree_of_noise(n: int, channels: int, dtype: torch.dtype) -> None:
    assert_trees(noise(n, 3, channels, n, dtype=dtype))


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.just(2), st.integers(1, 6), st.integers(1, 12)),
        elements=st.integers(-2, 2),
    )
)
def test_tree_with_many_ties_and_duplicates(features: np.ndarray) -> None:
    assert_trees(torch.from_numpy(features))


@pytest.mark.parametrize("value", [0.0, 1.0, -3.7e18, 1e-38])
def test_constant_map_gives_a_star_around_node_0(value: float) -> None:
    # All edges weigh 0; in the order (0, 1), (0, 2), ... each of the first N - 1 joins a new node.
    parents = minimum_spanning_tree(torch.full((2, 3, 4, 5), value))
    assert not parents.any()


def test_tree_golden() -> None:
    # On a line at 0, 10, 1, 4, 3: sorted gaps 1 (0,2), 1 (3,4), 2 (2,4), 6 (1,3).
    parents = minimum_spanning_tree(torch.tensor([[[0.0, 10.0, 1.0, 4.0, 3.0]]]))
    assert parents.tolist() == [[0, 3, 0, 4, 2]]


@pytest.mark.parametrize("exponent", [-100, -60, 60, 99])
def test_tree_does_not_depend_on_the_scale(exponent: int) -> None:
    # Powers of two round nothing: 2^-100 and 2^99 stand for 1e-30 and 1e30.
    features = noise(1, 4, 8, 5, 5)
    scaled = features * 2.0**exponent
    assert torch.equal(minimum_spanning_tree(scaled), minimum_spanning_tree(features))
    assert torch.equal(
        minimum_spanning_tree(scaled.double()), minimum_spanning_tree(features.double())
    )


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_tree_at_decimal_extremes(factor: float) -> None:
    # In float64 nothing under- or overflows, so the plain tree of the same values is the truth.
    features = noise(2, 3, 4, 20) * factor
    for x, found in zip(features.double().numpy(), minimum_spanning_tree(features), strict=True):
        tree = plain.minimum_spanning_tree(plain.squared_distances(x))
        assert plain.edges_of(found.numpy()) == tree


def test_tree_far_from_the_origin() -> None:
    # Differences are formed before they are squared: an offset of 2^12 costs no bit here.
    features = (noise(3, 2, 6, 30) * 64).round() / 64
    assert torch.equal(minimum_spanning_tree(features + 4096), minimum_spanning_tree(features))


def test_total_weight_is_that_of_scipy_and_networkx() -> None:
    features = noise(4, 3, 16, 8, 8)
    for x, found in zip(features.flatten(2), minimum_spanning_tree(features), strict=True):
        delta = plain.squared_distances(x.numpy().astype(np.float64))
        total = sum(delta[i, j] for i, j in plain.edges_of(found.numpy()))
        assert total == pytest.approx(
            scipy.sparse.csgraph.minimum_spanning_tree(delta).sum(), rel=1e-6
        )
        graph = nx.from_numpy_array(delta)
        networkx_total = nx.minimum_spanning_tree(graph).size(weight="weight")
        assert total == pytest.approx(networkx_total, rel=1e-6)


def test_memory_order_and_half_precision_do_not_matter() -> None:
    features = noise(5, 2, 8, 4, 6)
    expected = minimum_spanning_tree(features)
    channels_last = features.contiguous(memory_format=torch.channels_last)
    assert torch.equal(minimum_spanning_tree(channels_last), expected)
    half = features.half()
    assert torch.equal(minimum_spanning_tree(half), minimum_spanning_tree(half.float()))


def test_threads_do_not_matter_and_an_empty_batch_is_fine() -> None:
    features = noise(6, 7, 5, 30)
    trees = []
    for threads in (1, 2, 3, 16):
        torch.set_num_threads(threads)
        trees.append(minimum_spanning_tree(features))
    assert all(torch.equal(tree, trees[0]) for tree in trees)
    assert minimum_spanning_tree(features[:0]).shape == (0, 30)


def test_a_layer_without_grid_is_refused() -> None:
    with pytest.raises(ShapeError, match="spatial grid"):
        minimum_spanning_tree(noise(0, 4, 10))


@given(st.integers(0, 10_000), st.integers(1, 25), st.integers(1, 30))
def test_hops_and_masks_equal_breadth_first_search(seed: int, n: int, radius: int) -> None:
    rng = np.random.default_rng(seed)
    names = rng.permutation(n)
    parents = np.empty((1, n), np.int32)
    parents[0, names[0]] = names[0]
    for place in range(1, n):
        parents[0, names[place]] = names[rng.integers(place)]
    tree = torch.from_numpy(parents)
    hops = tree_hops(tree)[0]
    assert np.array_equal(hops.numpy(), plain.tree_hops(plain.edges_of(parents[0]), n))
    mask = tree_mask(tree, radius)[0]
    assert np.array_equal(mask.numpy(), hop_mask(parents[0].astype(np.int64), radius))
    assert torch.equal(mask, mask.T)
    assert not mask.diagonal().any()
    assert torch.equal(neighbour_counts(tree, radius)[0], mask.sum(1))
    assert torch.equal(tree_mask(tree, None)[0], ~torch.eye(n, dtype=torch.bool))


@pytest.mark.parametrize(
    "parents",
    [[1, 0, 0], [0, 1, 0], [0, 5, 0], [0, -1, 0], [1, 2, 2, 4, 3]],
    ids=["no root", "two roots", "too high", "negative", "a cycle beside the tree"],
)
def test_what_is_no_tree_is_refused(parents: list[int]) -> None:
    good = [*range(1, len(parents)), len(parents) - 1]
    with pytest.raises(ConfigError, match=r"tree .*image 1 of the batch"):
        tree_hops(torch.tensor([good, parents]))


def test_distances_equal_the_definition() -> None:
    features = noise(7, 3, 5, 4, 4)
    delta = squared_distances(features)
    for x, found in zip(features.flatten(2).numpy(), delta.numpy(), strict=True):
        assert np.array_equal(found, plain.squared_distances(x))
