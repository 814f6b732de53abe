"""Vectors at unit length, with a gradient in closed form.

With u = x / |x|: dL/dx = (g - u (u . g)) / |x|, three passes where autograd would take nine.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["norm_backward", "unit_and_norm", "unit_length"]

# Between these, squares neither overflow nor vanish and their sum is exact to rounding.
_SMALLEST, _LARGEST = 1e-15, 1e15


def unit_length(x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """Divide by the Euclidean norm over the last axis; a vector of zeros stays 0 with gradient 0.

    Invariant to positive scale, also where squares would overflow or vanish. O(size).
    """
    result: Tensor = _UnitLength.apply(x)
    return result


def unit_and_norm(
    x: Float[Tensor, "*batch n"],
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch 1"]]:
    """Return x / |x| and |x|; for a vector of zeros 0 and infinity, by which its gradient is 0."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    if x.numel() == 0:
        return x.clone(), norm
    if x.device.type != "cpu":  # A look at the norms would wait for the device.
        return _scaled(x)
    low, high = torch.aminmax(norm)
    if float(low) > _SMALLEST and float(high) < _LARGEST:
        return x / norm, norm
    # Vector by vector: the bits of one do not depend on its neighbours in the batch.
    odd = ((norm <= _SMALLEST) | (norm >= _LARGEST)).squeeze(-1)
    unit = x / norm
    unit[odd], norm[odd] = _scaled(x[odd])
    return unit, norm


def _scaled(x: Tensor) -> tuple[Tensor, Tensor]:
    largest = x.abs().amax(dim=-1, keepdim=True)
    zero = largest == 0
    scaled = x / largest.where(~zero, torch.ones_like(largest))
    root = scaled.square().sum(dim=-1, keepdim=True).where(~zero, 1.0).sqrt()
    return scaled / root, (largest * root).where(~zero, torch.inf)


def norm_backward(
    unit: Float[Tensor, "*batch n"],
    norm: Float[Tensor, "*batch 1"],
    gradient: Float[Tensor, "*batch n"],
) -> Float[Tensor, "*batch n"]:
    """Turn dL/du into dL/dx, both from `unit_and_norm`."""
    along = (unit * gradient).sum(dim=-1, keepdim=True)
    return torch.addcmul(gradient, unit, along, value=-1).div_(norm)


class _UnitLength(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        unit, norm = unit_and_norm(x.detach())
        ctx.save_for_backward(unit, norm)
        return unit

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> Tensor:
        unit, norm = ctx.saved_tensors
        return norm_backward(unit, norm, outer[0])
