"""Unit lengths, attention and Gram distance: gradients in closed form, at any scale and layout."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import plain_transfer as plain
import pytest
import torch
from torch import Tensor

from geocache.geometry import (
    attention_distance,
    attention_map,
    channel_gram,
    gram_distance,
    normalised_channels,
    unit_length,
)


def noise(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=dtype, generator=generator)


def to_noise(x: Tensor) -> Tensor:
    gram = channel_gram(noise(1, *x.shape[1:], seed=5).to(x.dtype))
    return gram_distance(x, gram.expand(len(x), -1, -1))


MEASURES: tuple[Callable[[Tensor], Tensor], ...] = (unit_length, attention_map, to_noise)
each = pytest.mark.parametrize("measure", MEASURES, ids=lambda f: f.__name__)


@each
@pytest.mark.parametrize("scale", [1.0, 1e-13, 1e-20, 1e16])
def test_gradient_equals_differences(measure: Callable[[Tensor], Tensor], scale: float) -> None:
    def scaled(x: Tensor) -> Tensor:
        value = measure(x * scale)
        # The map of attention comes up to a factor.
        return unit_length(value) if measure is attention_map else value

    x = noise(2, 3, 2, 3).requires_grad_()
    expected = unit_length(attention_map(x)) if measure is attention_map else measure(x)
    torch.testing.assert_close(scaled(x), expected)
    assert torch.autograd.gradcheck(scaled, x)


@each
def test_a_vector_of_zeros_has_no_gradient_and_leaves_others_alone(
    measure: Callable[[Tensor], Tensor],
) -> None:
    x = noise(3, 4, 3, 3, dtype=torch.float32)
    alone = x.clone().requires_grad_()
    measure(alone).square().sum().backward()
    among = torch.cat([x, x * 1e-25, torch.zeros(1, 4, 3, 3), x * 1e25]).requires_grad_()
    measure(among)[:3].square().sum().backward()
    assert alone.grad is not None and among.grad is not None
    # Bit by bit: what is stored for an image must not depend on its batch.
    assert torch.equal(measure(among)[:3], measure(alone))
    assert torch.equal(among.grad[:3], alone.grad)
    assert torch.equal(among.grad[3:], torch.zeros(7, 4, 3, 3))


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e-19, 1e-12, 1e12, 1e19, 1e30])
def test_float32_at_any_scale(scale: float) -> None:
    x = noise(2, 5, 4, 4, dtype=torch.float32).relu()
    x[0, 1] = 0
    scaled = (x * scale).requires_grad_()
    maps = x.double().numpy()
    ours = unit_length(attention_map(scaled))
    expected = np.stack([plain.attention(m, 2) for m in maps])
    np.testing.assert_allclose(ours.detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    unit = normalised_channels(scaled)
    expected = np.stack([[plain.unit(c.ravel()) for c in m] for m in maps])
    np.testing.assert_allclose(unit.detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    target = channel_gram(noise(2, 3, 4, 4, dtype=torch.float32, seed=1))
    distances = gram_distance(scaled, target)
    plainly = (channel_gram(x.double()) - target.double()).square().sum((1, 2))
    np.testing.assert_allclose(distances.detach().numpy(), plainly.numpy(), rtol=1e-5)
    (ours[:, 0].sum() + unit[:, :, 0].sum() + distances.sum()).backward()
    assert scaled.grad is not None and torch.isfinite(scaled.grad).all()
    one = x.clone().requires_grad_()
    value = unit_length(attention_map(one))[:, 0].sum() + gram_distance(one, target).sum()
    (value + normalised_channels(one)[:, :, 0].sum()).backward()
    assert one.grad is not None
    torch.testing.assert_close(scaled.grad * scale, one.grad, rtol=1e-4, atol=1e-6)


@each
def test_channels_last_is_the_same(measure: Callable[[Tensor], Tensor]) -> None:
    x = noise(3, 4, 3, 5)
    last = x.clone().to(memory_format=torch.channels_last)
    ours, theirs = x.requires_grad_(), last.requires_grad_()
    torch.testing.assert_close(measure(theirs), measure(ours))
    weights = noise(*measure(ours).shape, seed=3)
    (measure(ours) * weights).sum().backward()
    (measure(theirs) * weights).sum().backward()
    torch.testing.assert_close(theirs.grad, ours.grad)


def test_gram_distance_of_one_channel_and_one_position() -> None:
    x = noise(2, 1, 1, 1).requires_grad_()
    distance = gram_distance(x, torch.zeros(2, 1, 1, dtype=torch.float64))
    torch.testing.assert_close(distance, torch.ones(2, dtype=torch.float64))
    distance.sum().backward()
    torch.testing.assert_close(x.grad, torch.zeros_like(x))


def plain_distance(x: Tensor, theirs: Tensor) -> Tensor:
    """Return |A / |A| - T / |T||^2 of each image in float64, as it is printed."""
    rows = [
        ((plain.attention(image, 2) - plain.unit(map_)) ** 2).sum()
        for image, map_ in zip(x.detach().double().numpy(), theirs.double().numpy(), strict=True)
    ]
    return torch.from_numpy(np.stack(rows))


@pytest.mark.parametrize("theirs_scale", [1.0, 1e-20, 0.0])
@pytest.mark.parametrize("scale", [1.0, 1e-5, 1e-13, 1e16])
def test_attention_distance_and_its_gradient(scale: float, theirs_scale: float) -> None:
    """Also beyond the scales that the compiled kernel takes."""
    x, theirs = noise(2, 3, 2, 3), noise(2, 6, seed=1).abs() * theirs_scale

    def scaled(x: Tensor) -> Tensor:
        return attention_distance(x * scale, theirs)

    torch.testing.assert_close(scaled(x), plain_distance(x, theirs))
    assert torch.autograd.gradcheck(scaled, x.requires_grad_())


def test_attention_distance_beside_images_of_zeros_and_odd_scales() -> None:
    x, theirs = noise(3, 4, 3, 3, dtype=torch.float32), noise(12, 9, seed=1).abs().half()
    alone = x.clone().requires_grad_()
    attention_distance(alone, theirs[:3]).sum().backward()
    among = torch.cat([x, x * 1e-18, x * 1e17, torch.zeros(3, 4, 3, 3)]).requires_grad_()
    distances = attention_distance(among, theirs)
    expected = plain_distance(among, theirs)
    torch.testing.assert_close(distances.double(), expected, rtol=1e-5, atol=1e-6)
    distances.sum().backward()
    assert alone.grad is not None and among.grad is not None
    torch.testing.assert_close(among.grad[:3], alone.grad)
    assert torch.equal(among.grad[9:], torch.zeros(3, 4, 3, 3))


def test_attention_distance_of_channels_last_is_the_same() -> None:
    x, theirs = noise(3, 4, 3, 5), noise(3, 15, seed=1).abs()
    ours, last = x.clone().requires_grad_(), x.clone().to(memory_format=torch.channels_last)
    last.requires_grad_()
    torch.testing.assert_close(attention_distance(last, theirs), attention_distance(ours, theirs))
    for one in (ours, last):
        attention_distance(one, theirs).sum().backward()
    torch.testing.assert_close(last.grad, ours.grad)
