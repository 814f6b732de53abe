"""What is measured on the channel maps of a layer: attention, normalised maps, their Gram matrix.

The same functions serve the teacher's targets and the student's losses. Their gradients are
written out: autograd would keep and walk over several arrays as large as the features.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geocache.geometry._channel_kernels import attention_and_slope
from geocache.geometry._compile import over_images
from geocache.geometry.features import flatten_grid
from geocache.geometry.normalise import norm_backward, unit_and_norm, unit_length

__all__ = [
    "attention_distance",
    "attention_map",
    "channel_gram",
    "gram_distance",
    "normalised_channels",
]

# Sums of squares between these lose no term that matters and overflow in no later sum.
_SMALLEST, _LARGEST = 1e-24, 1e24


def attention_map(
    features: Float[Tensor, "batch channels *grid"], p: int = 2
) -> Float[Tensor, "batch n"]:
    """Compute A = sum_c |f_c|^p (Zagoruyko & Komodakis 2017, eq 1), up to a factor of each image.

    The factor keeps powers in range and is gone once A is normalised. O(batch C N).
    """
    x = flatten_grid(features)
    if p == 2 and x.device.type == "cpu" and x.numel():
        squares: Tensor = _SquaresOverChannels.apply(x)
        return squares
    largest = x.detach().abs().amax(dim=(1, 2), keepdim=True)
    x = x / torch.where(largest == 0, torch.ones_like(largest), largest)
    powers = x.square() if p == 2 else x.abs() if p == 1 else x.abs().pow(p)
    return powers.sum(dim=1)


class _SquaresOverChannels(torch.autograd.Function):
    """sum_c (s f_c)^2 with s a power of two, 1 where squares are in range: it rounds nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        sums = x.square().sum(dim=1)
        low, high = torch.aminmax(sums.sum(dim=1))
        ctx.in_range = float(low) > _SMALLEST and float(high) < _LARGEST
        if ctx.in_range:
            ctx.save_for_backward(x)
            return sums
        total = sums.sum(dim=1)
        odd = (total <= _SMALLEST) | ~(total < _LARGEST)
        exponent = torch.frexp(x.abs().amax(dim=(1, 2)))[1].clamp(-120, 120)
        scale = torch.ldexp(torch.ones_like(total), -exponent.where(odd, 0))[:, None, None]
        ctx.save_for_backward(x, scale)
        return (x * scale).square().sum(dim=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> Tensor:
        x: Tensor = ctx.saved_tensors[0]
        twice = (outer[0] + outer[0])[:, None]
        if ctx.in_range:
            return x * twice
        scale: Tensor = ctx.saved_tensors[1]
        return x * scale * twice * scale


def attention_distance(
    features: Float[Tensor, "batch channels *grid"], theirs: Float[Tensor, "batch n"], p: int = 2
) -> Float[Tensor, " batch"]:
    """Compute |A / |A| - T / |T||^2 for each image, A = `attention_map(features)`, T = `theirs`.

    Differentiable in the features: with A = sum_c f_c^2 the gradient is f_c times one map, formed
    on the way. O(batch C N) time, one array of O(batch N) beside the features.
    """
    x = flatten_grid(features)
    if p == 2 and x.device.type == "cpu" and x.is_contiguous() and x.numel():
        squares: Tensor = _AttentionDistance.apply(x, theirs.detach().to(x.dtype).contiguous())
        if not bool(squares.isnan().any()):
            return squares
    ours = unit_length(attention_map(x, p))
    return (ours - unit_length(theirs.to(ours.dtype))).square().sum(dim=1)


class _AttentionDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, theirs: Tensor) -> Tensor:
        squares, slope = x.new_empty(len(x)), torch.empty_like(theirs)
        over_images(
            attention_and_slope, len(x), x.detach().numpy(), theirs.numpy(), squares.numpy(),
            slope.numpy(),
        )  # fmt: skip
        ctx.save_for_backward(x, slope)
        return squares

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        x, slope = ctx.saved_tensors
        return x * (slope * outer[0][:, None])[:, None], None


def normalised_channels(
    features: Float[Tensor, "batch channels *grid"],
) -> Float[Tensor, "batch channels n"]:
    """Bring each channel's map f^k in R^(HW) to unit length (NST section 4); zero maps stay 0."""
    return unit_length(flatten_grid(features))


def channel_gram(features: Float[Tensor, "batch channels *grid"]) -> Float[Tensor, "batch n n"]:
    """Compute G = (1/C) sum_k f^k f^kT over unit-length channel maps; zero maps count in C.

    G is what NST's polynomial kernel with d = 2, c = 0 sees of a network (NST eq 4, 8). O(batch C
    N^2) time, O(batch N^2) memory.
    """
    f = normalised_channels(features)
    return f.transpose(1, 2) @ f / f.shape[1]


def gram_distance(
    features: Float[Tensor, "batch channels *grid"], gram: Float[Tensor, "batch n n"]
) -> Float[Tensor, " batch"]:
    """Compute |G - T|_F^2 for each image, G = `channel_gram(features)`, T = `gram`, symmetric.

    Differentiable in the features: with E = G - T, dL/df^k = (4/C) E f^k, one product, since E is
    symmetric. O(batch C N^2) time, one array of O(batch N^2).
    """
    result: Tensor = _GramDistance.apply(flatten_grid(features), gram)
    return result


class _GramDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gram: Tensor) -> Tensor:
        f, norm = unit_and_norm(x)
        error = torch.baddbmm(gram, f.transpose(1, 2), f, beta=-1, alpha=1 / f.shape[1])
        ctx.save_for_backward(f, norm, error)
        return error.square().sum(dim=(1, 2))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        f, norm, error = ctx.saved_tensors
        gradient = norm_backward(f, norm, f @ error)
        return gradient.mul_((4 / f.shape[1]) * outer[0][:, None, None]), None
