"""Squared Euclidean distances between the local features of an image (GeoReg section 3.1)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from geocache.geometry._compile import over_images
from geocache.geometry._distance_kernels import all_distances
from geocache.geometry.features import flatten_grid

__all__ = ["normalised_distances", "squared_distances"]


def squared_distances(
    features: Float[Tensor, "batch channels *grid"],
) -> Float[Tensor, "batch n n"]:
    """Compute delta_ij = |x_i - x_j|^2, exactly symmetric and exactly 0 for duplicates.

    Invariant to a common shift up to rounding. O(batch N^2 C) time, O(batch N^2) memory; on the
    CPU, not differentiable. features: any float type, computed in float32 or float64.
    """
    x = flatten_grid(features.detach()).cpu().contiguous()
    out = torch.empty(x.shape[0], x.shape[2], x.shape[2], dtype=x.dtype)
    over_images(all_distances, x.shape[0], x.numpy(), out.numpy())
    return out


def normalised_distances(
    features: Float[Tensor, "batch channels *grid"],
) -> Float[Tensor, "batch n n"]:
    """Compute d_ij = delta_ij / sum_k delta_ik (GeoReg eq 3); rows sum to 1, or to 0 if all equal.

    Invariant to scale and shift. O(batch N^2 C) time and O(batch N^2) memory.
    """
    delta = squared_distances(features)
    total = delta.sum(dim=2, keepdim=True)
    return torch.where(total > 0, delta / total.clamp_min(torch.finfo(delta.dtype).tiny), 0.0)
