"""J and its gradient against the slow float64 form, on trees and on lists, degenerate or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from plain_losses import affinity
from torch import Tensor

from geocache.errors import ConfigError, ShapeError
from geocache.geometry import (
    affinity_contrast,
    affinity_contrast_from_mask,
    affinity_contrasts,
    knn_mask,
    minimum_spanning_tree,
    nearest_neighbours,
    tree_mask,
)

# A neighbourhood: the keywords of affinity_contrast for some features, and its dense mask.
Hood = Callable[[Tensor], tuple[dict[str, Any], Tensor]]


def within(radius: int) -> Hood:
    def make(features: Tensor) -> tuple[dict[str, Any], Tensor]:
        parents = minimum_spanning_tree(features)
        return {"parents": parents, "radius": radius}, tree_mask(parents, radius)

    return make


def nearest(k: int) -> Hood:
    def make(features: Tensor) -> tuple[dict[str, Any], Tensor]:
        lists = nearest_neighbours(features, min(k + 2, features[0, 0].numel() - 1))
        return {"neighbours": lists, "k": k}, knn_mask(lists, k)

    return make


HOODS = {"r1": within(1), "r2": within(2), "r5": within(5), "r99": within(99),
         "k1": nearest(1), "k7": nearest(7)}  # fmt: skip


@pytest.fixture(params=HOODS)
def hood(request: pytest.FixtureRequest) -> Hood:
    return HOODS[request.param]


def noise(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def reference(features: Tensor, mask: Tensor) -> np.ndarray:
    """J image by image in float64."""
    images = features.double().flatten(2).numpy()
    return np.array([affinity(x, m) for x, m in zip(images, mask.numpy(), strict=True)])


@pytest.mark.parametrize("channels", [1, 3, 8, 33])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_float32_errs_below_1e5_of_the_largest(hood: Hood, channels: int, offset: float) -> None:
    # As after a ReLU: half the values are zero. The offset would cost digits without centring.
    features = noise(channels, 3, channels, 8, 8).relu() + offset
    keywords, mask = hood(features)
    found = affinity_contrast(features, **keywords).numpy()
    truth = reference(features, mask)
    assert found.dtype == np.float32
    error = np.abs(found - truth).max(axis=1)
    assert error.max() <= 1e-6
    # On a line neighbours lie so near that J itself is small: there only the first bound holds.
    if channels > 1:
        assert (error / truth.max(axis=1)).max() <= 1e-5


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**-50, 2.0**50, 2.0**99])
def test_j_does_not_depend_on_the_scale(hood: Hood, scale: float) -> None:
    features = noise(0, 3, 5, 6, 6)
    keywords, _ = hood(features)
    expected = affinity_contrast(features, **keywords)
    torch.testing.assert_close(affinity_contrast(features * scale, **keywords), expected)


def test_dense_mask_gives_the_same(hood: Hood) -> None:
    features = noise(1, 3, 5, 6, 6, dtype=torch.float64)
    keywords, mask = hood(features)
    sums, dense = features.clone().requires_grad_(), features.clone().requires_grad_()
    outer = noise(2, 3, 36, dtype=torch.float64)
    by_sums = affinity_contrast(sums, **keywords)
    by_mask = affinity_contrast_from_mask(dense, mask)
    torch.testing.assert_close(by_sums, by_mask)
    torch.testing.assert_close(
        torch.autograd.grad(by_sums, sums, outer), torch.autograd.grad(by_mask, dense, outer)
    )
    assert by_sums.detach().numpy() == pytest.approx(reference(features, mask), rel=1e-12)


@pytest.mark.parametrize("channels", [1, 4])
def test_gradcheck(hood: Hood, channels: int) -> None:
    features = noise(3, 2, channels, 3, 4, dtype=torch.float64)
    keywords, _ = hood(features)
    assert torch.autograd.gradcheck(
        lambda x: affinity_contrast(x, **keywords), features.requires_grad_()
    )


def test_gradient_in_float32_is_that_of_float64(hood: Hood) -> None:
    features = noise(4, 3, 16, 8, 8).relu()
    keywords, _ = hood(features)
    outer = noise(5, 3, 64)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        x = features.to(dtype).requires_grad_()
        j = affinity_contrast(x, **keywords)
        gradients.append(torch.autograd.grad(j, x, outer.to(dtype))[0].double())
    error = (gradients[0] - gradients[1]).abs().max()
    # Where everything is within reach J is 1 and its gradient 0: there the rounding is all.
    assert float(error) <= max(1e-5 * float(gradients[1].abs().max()), 2e-7)


def degenerate() -> dict[str, Tensor]:
    dead = noise(6, 1, 4, 4, 4)
    dead[:, :, 1:] = 0
    near = torch.full((1, 4, 4, 4), 1000.0)
    near[0, 0, 0, 0] += 1e-4
    return {
        "zero": torch.zeros(1, 4, 4, 4),
        "constant": torch.full((1, 4, 4, 4), 0.1),
        "constant by channel": noise(7, 1, 4, 1, 1).expand(1, 4, 4, 4).contiguous(),
        "constant but for rounding": near,
        "huge constant": torch.full((1, 4, 4, 4), 1e30),
        "mostly dead": dead,
        "one different": torch.eye(16).view(16, 4, 4)[None, :1].contiguous(),
        "two values": torch.tensor([0.0, 1.0]).repeat(8).view(1, 1, 4, 4),
        "tiny": noise(8, 1, 4, 4, 4) * 1e-30,
    }


@pytest.mark.parametrize("what", degenerate())
@pytest.mark.parametrize("form", ["sums", "mask"])
def test_degenerate_maps_give_no_nan(hood: Hood, what: str, form: str) -> None:
    features = degenerate()[what]
    keywords, mask = hood(features)
    x = features.clone().requires_grad_()
    dense = form == "mask"
    j = affinity_contrast_from_mask(x, mask) if dense else affinity_contrast(x, **keywords)
    j.sum().backward()
    assert x.grad is not None
    assert j.isfinite().all()
    assert x.grad.isfinite().all()
    assert j.min() >= 0
    assert j.max() <= 1
    if "constant" in what or what == "zero":
        assert not j.any()
        assert not x.grad.any()


@pytest.mark.parametrize("n", [1, 2])
def test_one_and_two_positions(n: int) -> None:
    features = noise(9, 3, 4, n).requires_grad_()
    j = affinity_contrast(features, parents=minimum_spanning_tree(features), radius=5)
    # Two positions are each other's only neighbour: J = 1. One position has none: J = 0.
    torch.testing.assert_close(j, torch.full((3, n), float(n - 1)))
    j.sum().backward()
    assert features.grad is not None
    assert features.grad.abs().max() < 1e-6


def test_shift_scale_and_rotation_do_not_matter(hood: Hood) -> None:
    features = noise(10, 2, 6, 5, 5, dtype=torch.float64)
    keywords, _ = hood(features)
    rotation = torch.linalg.qr(noise(11, 6, 6, dtype=torch.float64)).Q
    moved = 3 * torch.einsum("ij,bjyx->biyx", rotation, features) + noise(12, 1, 6, 1, 1).double()
    torch.testing.assert_close(
        affinity_contrast(moved, **keywords), affinity_contrast(features, **keywords)
    )


def test_everything_within_reach_gives_one() -> None:
    features = noise(13, 2, 4, 5, 5)
    parents = minimum_spanning_tree(features)
    j = affinity_contrast(features, parents=parents, radius=10**9)
    torch.testing.assert_close(j, torch.ones(2, 25))
    # On a line the ends are N - 1 hops apart.
    line = torch.arange(7.0).view(1, 1, 7)
    chain = torch.tensor([[0, 0, 1, 2, 3, 4, 5]])
    for radius in (6, 100):
        j = affinity_contrast(line, parents=chain, radius=radius)
        torch.testing.assert_close(j, torch.ones(1, 7))
    assert float(affinity_contrast(line, parents=chain, radius=5)[0, 0]) < 0.9


def test_several_radii_are_the_same_bits() -> None:
    features = noise(14, 4, 16, 8, 8).relu()
    parents = minimum_spanning_tree(features)
    radii = (5, 1, 10, 2, 80)
    together = affinity_contrasts(features, parents=parents, radii=radii)
    for i, radius in enumerate(radii):
        alone = affinity_contrast(features, parents=parents, radius=radius)
        assert torch.equal(together[:, i], alone)


def test_threads_and_neighbours_in_the_batch_do_not_matter(hood: Hood) -> None:
    features = noise(15, 5, 7, 6, 6)
    keywords, _ = hood(features)
    outer = noise(16, 5, 36)
    results = []
    for threads in (1, 2, 3, 16):
        torch.set_num_threads(threads)
        x = features.clone().requires_grad_()
        j = affinity_contrast(x, **keywords)
        results.append((j.detach(), torch.autograd.grad(j, x, outer)[0]))
    for j, gradient in results:
        assert torch.equal(j, results[0][0])
        assert torch.equal(gradient, results[0][1])
    alone = {k: v[2:3] if isinstance(v, Tensor) else v for k, v in keywords.items()}
    assert torch.equal(affinity_contrast(features[2:3], **alone), results[0][0][2:3])


def test_wrong_arguments_are_refused() -> None:
    x = noise(17, 2, 3, 9)
    parents, lists = minimum_spanning_tree(x), nearest_neighbours(x, 4)
    with pytest.raises(ConfigError, match="either parents"):
        affinity_contrast(x)
    with pytest.raises(ConfigError, match="either parents"):
        affinity_contrast(x, parents=parents, neighbours=lists, radius=2)
    for radius in (None, 0, -1):
        with pytest.raises(ConfigError, match=f"from 1 up, got {radius}"):
            affinity_contrast(x, parents=parents, radius=radius)
    for k in (0, 5):
        with pytest.raises(ConfigError, match=f"list's 4, got {k}"):
            affinity_contrast(x, neighbours=lists, k=k)
    with pytest.raises(ConfigError, match="radii"):
        affinity_contrasts(x, parents=parents, radii=())
    with pytest.raises(ShapeError, match="same height and width"):
        affinity_contrast(x[:, :, :8], parents=parents, radius=2)
    with pytest.raises(ConfigError, match="tree"):
        affinity_contrast(x, parents=(parents + 1) % 9, radius=2)


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e18])
def test_the_dense_form_keeps_its_range(scale: float) -> None:
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    parents = minimum_spanning_tree(x)
    expected = affinity_contrast(x, parents=parents, radius=2)
    found = affinity_contrast_from_mask(x * scale, tree_mask(parents, 2))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [-1, 16])
def test_neighbours_out_of_range_are_refused(bad: int) -> None:
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    lists = nearest_neighbours(x, 3)
    lists[1, 5, 2] = bad
    with pytest.raises(ConfigError, match="ids from 0 to 15"):
        affinity_contrast(x, neighbours=lists)


@pytest.mark.parametrize("radius", [1, 5])
def test_a_second_backward_gives_the_same_gradient(radius: int) -> None:
    """What the forward keeps for the backward is read, not used up."""
    x = torch.randn(3, 5, 4, 4, generator=torch.Generator().manual_seed(2)).requires_grad_()
    parents = minimum_spanning_tree(x.detach())
    value = affinity_contrast(x, parents=parents, radius=radius).square().sum()
    first, second = (torch.autograd.grad(value, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second) and bool(first.any())
