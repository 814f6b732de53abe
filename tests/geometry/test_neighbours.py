"""Neighbour lists with ties by index, distances and their normal form, finite features."""

from __future__ import annotations

import numpy as np
import plain_geometry as plain
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from plain_losses import list_mask

from geocache.errors import ConfigError, NumericError, ShapeError
from geocache.geometry import (
    check_finite,
    flatten_grid,
    knn_mask,
    nearest_neighbours,
    normalised_distances,
    squared_distances,
)


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.just(2), st.integers(1, 6), st.integers(2, 12)),
        elements=st.integers(-2, 2),
    ),
    st.data(),
)
def test_lists_with_ties_equal_a_sort(features: np.ndarray, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, features.shape[2] - 1))
    lists = nearest_neighbours(torch.from_numpy(features), k)
    assert lists.dtype == torch.int32
    for x, found in zip(features, lists.numpy(), strict=True):
        assert np.array_equal(found, plain.nearest_neighbours(plain.squared_distances(x), k))


@pytest.mark.parametrize("factor", [1.0, 2.0**-100, 2.0**99])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lists_of_noise_at_any_scale(dtype: torch.dtype, factor: float) -> None:
    x = torch.randn(3, 7, 5, 5, generator=torch.Generator().manual_seed(1), dtype=dtype)
    lists = nearest_neighbours(x * factor, 9)
    for image, found in zip(x.flatten(2).numpy(), lists.numpy(), strict=True):
        assert np.array_equal(found, plain.nearest_neighbours(plain.squared_distances(image), 9))


def test_constant_map_lists_the_lowest_numbers() -> None:
    lists = nearest_neighbours(torch.full((1, 2, 4), 3.0), 2)
    assert lists.tolist() == [[[1, 2], [0, 2], [0, 1], [0, 1]]]


def test_shorter_lists_are_the_front_and_threads_do_not_matter() -> None:
    x = torch.randn(5, 3, 20, generator=torch.Generator().manual_seed(2)).round(decimals=1)
    longest = nearest_neighbours(x, 19)
    for threads, k in ((2, 1), (3, 7), (16, 18)):
        torch.set_num_threads(threads)
        assert torch.equal(nearest_neighbours(x, k), longest[:, :, :k])


@pytest.mark.parametrize("k", [0, -1, 4, 5])
def test_k_out_of_range_is_refused(k: int) -> None:
    with pytest.raises(ConfigError, match=r"between 1 and N - 1 = 3 neighbours"):
        nearest_neighbours(torch.zeros(1, 2, 2, 2), k)


def test_mask_of_lists() -> None:
    x = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(3))
    lists = nearest_neighbours(x, 4)
    for k in (1, 3, 4):
        masks = knn_mask(lists, k)
        for found, mask in zip(lists.numpy(), masks.numpy(), strict=True):
            assert np.array_equal(mask, list_mask(found[:, :k].astype(np.int64)))
    assert torch.equal(knn_mask(lists), knn_mask(lists, 4))


@pytest.mark.parametrize("factor", [1.0, 1e-15, 1e15])
def test_distances_are_symmetric_and_zero_for_duplicates(factor: float) -> None:
    x = torch.randn(2, 3, 11, generator=torch.Generator().manual_seed(4)) * factor
    x[:, :, 5] = x[:, :, 2]
    delta = squared_distances(x)
    assert torch.equal(delta, delta.transpose(1, 2))
    assert not delta.diagonal(dim1=1, dim2=2).any()
    assert not delta[:, 5, 2].any()
    for image, found in zip(x.double().numpy(), delta.numpy(), strict=True):
        assert found == pytest.approx(plain.squared_distances(image), rel=1e-6)


def test_normalised_distances() -> None:
    x = torch.randn(2, 3, 11, generator=torch.Generator().manual_seed(5))
    d = normalised_distances(x)
    torch.testing.assert_close(d.sum(2), torch.ones(2, 11))
    for image, found in zip(x.double().numpy(), d.numpy(), strict=True):
        assert found == pytest.approx(plain.normalised_distances(image), rel=1e-5, abs=1e-9)
    assert not normalised_distances(torch.ones(1, 2, 5)).any()


def test_flatten_grid_keeps_order_and_raises_half_precision() -> None:
    x = torch.arange(24.0).view(1, 2, 3, 4)
    assert flatten_grid(x).tolist() == x.view(1, 2, 12).tolist()
    assert flatten_grid(x.half()).dtype == flatten_grid(x.bfloat16()).dtype == torch.float32
    assert flatten_grid(x.double()).dtype == torch.float64
    with pytest.raises(ShapeError, match="spatial grid"):
        flatten_grid(torch.zeros(4, 3))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_check_finite_names_place_and_image(value: float) -> None:
    x = torch.zeros(3, 2, 4)
    check_finite(x, "layer layer2")
    x[1, 1, 3] = value
    with pytest.raises(NumericError, match=r"layer layer2, image 1 of the batch"):
        check_finite(x, "layer layer2")
