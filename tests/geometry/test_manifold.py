"""The manifold distance: its definition, its invariances, and maps without any structure."""

from __future__ import annotations

import math

import numpy as np
import plain_geometry as plain
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import geocache
from geocache.errors import ConfigError, NumericError, ShapeError
from geocache.geometry import manifold_distance


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def related(seed: int, strength: float) -> tuple[Tensor, Tensor]:
    """Two maps with one structure, in 5 and 8 channels, and noise of this strength between them."""
    x = noise(seed, 6, 5, 6, 6)
    embedding = torch.linalg.qr(noise(99, 8, 5))[0]
    return x, torch.einsum("dc,bchw->bdhw", embedding, x) + strength * noise(seed + 1, 6, 8, 6, 6)


@pytest.mark.parametrize("radius", [1, 3, None])
@pytest.mark.parametrize("k", [1, 4, 19])
@pytest.mark.parametrize("bandwidth", [0.3, 1.0, 5.0])
def test_equals_the_reference(k: int, radius: int | None, bandwidth: float) -> None:
    first, second = noise(1, 3, 4, 5, 4), noise(2, 3, 7, 20)
    found = manifold_distance(first, second, k=k, radius=radius, bandwidth=bandwidth)
    assert found.dtype == torch.float64 and found.shape == (3,)
    for x, y, d in zip(first.flatten(2), second, found.tolist(), strict=True):
        expected = plain.manifold_distance(x.numpy(), y.numpy(), k, radius, bandwidth)
        assert d == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 10_000), st.integers(2, 9), st.data())
def test_equals_the_reference_with_ties_and_duplicates(
    seed: int, n: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    k, radius = data.draw(st.integers(1, n - 1)), data.draw(st.integers(1, n))
    first, second = (rng.integers(-1, 2, (1, 2, n)).astype(np.float32) for _ in range(2))
    d = manifold_distance(torch.from_numpy(first), torch.from_numpy(second), k=k, radius=radius)
    expected = plain.manifold_distance(first[0], second[0], k, radius, 1.0)
    assert float(d) == pytest.approx(expected, abs=1e-12)


def test_golden() -> None:
    # Points 0, 1, 3 and 0, 3, 1 on a line. Graphs (k = 1) and trees both: 0-1, 1-2 and 0-2, 2-1,
    # with delta 1 and 4, mean 2.5. The shared edge 1-2 has e^-1.6, the other e^-0.4, so that
    # Er(G, other) = 1 / (1 + e^1.2) = 0.231475 and Er(G, own) = 1 on both sides.
    first, second = torch.tensor([[[0.0, 1.0, 3.0]]]), torch.tensor([[[0.0, 3.0, 1.0]]])
    assert float(manifold_distance(first, second, k=1, radius=1)) == pytest.approx(
        1 - 1 / (1 + math.exp(1.2)), rel=1e-12
    )


def test_zero_for_one_structure_and_growing_with_the_noise() -> None:
    x = noise(1, 4, 5, 6, 6)
    assert not manifold_distance(x, x, k=6, radius=3).any()
    means = [
        float(manifold_distance(*related(3, strength), k=6, radius=3).mean())
        for strength in (0.0, 0.1, 1.0, 100.0)
    ]
    assert means == sorted(means)
    assert means[0] == pytest.approx(0, abs=1e-6)
    assert means[1] > 0.01
    assert 0.2 < means[-1] <= 1


def test_invariances() -> None:
    x, y = related(5, 0.5)
    expected = manifold_distance(x, y, k=5, radius=3)
    assert expected.min() > 0

    def same(first: Tensor, second: Tensor) -> None:
        torch.testing.assert_close(manifold_distance(first, second, k=5, radius=3), expected)

    same(y, x)
    rotation = torch.linalg.qr(noise(7, 5, 5).double())[0]
    same(torch.einsum("dc,bchw->bdhw", rotation, x.double()), y)
    same(1e-12 * x.double() + 3e-11, 1e12 * y.double())
    order = torch.randperm(36, generator=torch.Generator().manual_seed(8))
    same(x.flatten(2)[:, :, order], y.flatten(2)[:, :, order])


@pytest.mark.parametrize("value", [0.0, 0.7, -6e4, 1e-30])
def test_constant_maps(value: float) -> None:
    constant, other = torch.full((2, 3, 3, 3), value), noise(1, 2, 4, 3, 3)
    assert not manifold_distance(constant, constant * 2 + 1, k=3, radius=1).any()
    d = manifold_distance(constant, other, k=3, radius=2)
    assert torch.isfinite(d).all() and (d <= 1).all()
    for y, found in zip(other.flatten(2).numpy(), d.tolist(), strict=True):
        flat = np.full((3, 9), value, np.float32)
        assert found == pytest.approx(plain.manifold_distance(flat, y, 3, 2, 1.0), abs=1e-12)


@pytest.mark.parametrize("factor", [1e-30, 1e30])
@pytest.mark.parametrize("bandwidth", [1e-6, 1e6])
def test_extreme_scales_and_bandwidths_are_finite(factor: float, bandwidth: float) -> None:
    x, y = noise(1, 3, 4, 4, 4) * factor, noise(2, 3, 4, 4, 4) / factor
    d = manifold_distance(x, y, k=4, radius=2, bandwidth=bandwidth)
    assert torch.isfinite(d).all() and (d <= 1).all()
    assert not manifold_distance(x, x, k=4, radius=2, bandwidth=bandwidth).any()


def test_few_positions_and_an_empty_batch() -> None:
    assert manifold_distance(noise(1, 2, 3, 1, 1), noise(2, 2, 4, 1), k=5, radius=1).tolist() == [
        0.0,
        0.0,
    ]
    assert manifold_distance(noise(1, 2, 3, 2), noise(2, 2, 4, 2), k=1, radius=1).tolist() == [0, 0]
    assert manifold_distance(noise(1, 0, 3, 4), noise(2, 0, 3, 4), k=1, radius=1).shape == (0,)


def test_it_is_public_and_reads_half_precision() -> None:
    x, y = noise(1, 2, 3, 4, 4).half(), noise(2, 2, 3, 4, 4).half()
    found = geocache.manifold_distance(x, y, k=3, radius=2)
    assert torch.equal(found, manifold_distance(x.float(), y.float(), k=3, radius=2))


def test_refusals() -> None:
    x = noise(1, 2, 3, 4, 4)
    with pytest.raises(ShapeError, match=r"got \(2, 16\) and \(2, 9\)"):
        manifold_distance(x, noise(1, 2, 3, 3, 3), k=1, radius=1)
    with pytest.raises(ShapeError, match="spatial grid"):
        manifold_distance(noise(1, 2, 3), noise(1, 2, 3), k=1, radius=1)
    with pytest.raises(ConfigError, match=r"radius must be .*, got 0"):
        manifold_distance(x, x, k=1, radius=0)
    with pytest.raises(ConfigError, match=r"between 1 and N - 1 = 15 neighbours, got 16"):
        manifold_distance(x, x, k=16, radius=1)
    with pytest.raises(ConfigError, match="bandwidth must be a positive number, got 0"):
        manifold_distance(x, x, k=1, radius=1, bandwidth=0.0)
    bad = x.clone()
    bad[1, 0, 0, 0] = math.nan
    with pytest.raises(NumericError, match="second set, image 1"):
        manifold_distance(x, bad, k=1, radius=1)
