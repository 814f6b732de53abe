"""What is measured on the channel maps of a layer: attention, normalised maps, their Gram matrix.

The same functions serve the teacher's targets and the student's losses.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from geocache.geometry.features import flatten_grid

__all__ = ["attention_map", "channel_gram", "normalised_channels", "unit_length"]


def unit_length(x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """Divide by the Euclidean norm over the last axis; a vector of zeros stays 0 with gradient 0.

    Invariant to positive scale, also where squares would overflow or vanish. O(size).
    """
    largest = x.detach().abs().amax(dim=-1, keepdim=True)
    zero = largest == 0
    scaled = x / torch.where(zero, torch.ones_like(largest), largest)
    square = scaled.square().sum(dim=-1, keepdim=True)
    return torch.where(zero, torch.zeros_like(x), scaled / square.where(~zero, 1.0).sqrt())


def attention_map(
    features: Float[Tensor, "batch channels *grid"], p: int = 2
) -> Float[Tensor, "batch n"]:
    """Compute A = sum_c |f_c|^p (Zagoruyko & Komodakis 2017, eq 1), scaled by the image's maximum.

    The common factor keeps powers in range and is gone once A is normalised. O(batch C N).
    """
    x = flatten_grid(features)
    largest = x.detach().abs().amax(dim=(1, 2), keepdim=True)
    x = x / torch.where(largest == 0, torch.ones_like(largest), largest)
    powers = x.square() if p == 2 else x.abs() if p == 1 else x.abs().pow(p)
    return powers.sum(dim=1)


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
