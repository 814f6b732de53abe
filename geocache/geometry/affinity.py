"""The affinity contrast J of each local feature, the same function for teacher and student.

GeoReg eq 6: how much of a feature's total distance to all others lies inside its neighbourhood.
On the CPU the neighbour sums are two passes over the tree (no mask, no N x N matrix) with a
hand-written backward; on other devices a dense mask and batched matrix products do the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geocache.errors import ConfigError, ShapeError
from geocache.geometry._affinity_kernels import (
    list_backward,
    list_forward,
    padded,
    tree_backward,
    tree_forward,
)
from geocache.geometry._compile import over_images
from geocache.geometry.features import flatten_grid
from geocache.geometry.masks import knn_mask, not_a_tree, tree_mask

__all__ = [
    "affinity_contrast",
    "affinity_contrast_from_distances",
    "affinity_contrast_from_mask",
    "affinity_contrasts",
]


def affinity_contrast(
    features: Float[Tensor, "batch channels *grid"],
    *,
    parents: Int[Tensor, "batch n"] | None = None,
    neighbours: Int[Tensor, "batch n k_max"] | None = None,
    radius: int | None = None,
    k: int | None = None,
) -> Float[Tensor, "batch n"]:
    """Compute J_i = sum_j m_ij delta_ij / sum_j delta_ij (GeoReg eq 6), differentiable.

    The neighbourhood m is either the nodes within `radius` hops on the tree `parents`, or the
    first `k` of each list in `neighbours` (all of it by default). Invariant to shift and scale of
    the features; J and its gradient are 0 for a constant map. O(batch N radius C) time for trees,
    O(batch N k C) for lists; for the backward of trees O(batch N C) numbers are kept. J lies in
    [0, 1].

    Raises ConfigError unless exactly one kind of neighbourhood is given, or when the radius is
    below 1, k is out of range, or `parents` is not a tree; ShapeError when the grids differ.
    """
    x = flatten_grid(features)
    if (parents is None) == (neighbours is None):
        raise ConfigError("affinity_contrast needs either parents= and radius=, or neighbours=.")
    if parents is not None:
        if radius is None or radius < 1:
            raise ConfigError(f"radius must be a whole number of hops from 1 up, got {radius}.")
        _check_positions(x, parents)
        if x.device.type != "cpu":
            return affinity_contrast_from_mask(x, tree_mask(parents, radius))
        # More hops than edges reach the same nodes.
        reach = min(radius, max(x.shape[2] - 1, 1))
        return _call(_TreeAffinity.apply, x.contiguous(), _int32(parents), reach)
    assert neighbours is not None
    _check_positions(x, neighbours)
    _check_ids(neighbours, x.shape[2])
    k = neighbours.shape[2] if k is None else k
    if not 1 <= k <= neighbours.shape[2]:
        raise ConfigError(f"k must be between 1 and the list's {neighbours.shape[2]}, got {k}.")
    if x.device.type != "cpu":
        return affinity_contrast_from_mask(x, knn_mask(neighbours, k))
    return _call(_ListAffinity.apply, x.contiguous(), _int32(neighbours), k)


def affinity_contrasts(
    features: Float[Tensor, "batch channels *grid"],
    *,
    parents: Int[Tensor, "batch n"],
    radii: Sequence[int],
) -> Float[Tensor, "batch radius n"]:
    """Compute J for several radii in one walk, not differentiable: the teacher's side.

    The same numbers, to the bit, as `affinity_contrast` gives radius by radius, for less. O(batch N
    r C) for the largest radius, plus O(batch N C) for each.

    Raises ConfigError and ShapeError as `affinity_contrast` does.
    """
    x = flatten_grid(features.detach())
    if not radii or min(radii) < 1:
        raise ConfigError(f"radii must be whole numbers of hops from 1 up, got {list(radii)}.")
    _check_positions(x, parents)
    if x.device.type != "cpu":
        masks = [tree_mask(parents, radius) for radius in radii]
        return torch.stack([affinity_contrast_from_mask(x, mask) for mask in masks], dim=1)
    reach = tuple(min(radius, max(x.shape[2] - 1, 1)) for radius in radii)
    return _tree_forward(x.contiguous(), _int32(parents), reach, x.new_empty(0, 0, 0))


def affinity_contrast_from_mask(
    features: Float[Tensor, "batch channels *grid"], mask: Tensor
) -> Float[Tensor, "batch n"]:
    """Compute J (GeoReg eq 6) under any boolean mask (batch, N, N), on any device.

    O(batch N^2 C) time, O(batch N^2) memory. Differentiable; the diagonal of the mask is ignored
    because a feature is at distance 0 from itself.
    """
    x = flatten_grid(features)
    x = x * _power_of_two_scale(x.detach())
    energy = x.detach().square().sum(dim=(1, 2))
    x = x - x[:, :, :1].detach()
    x = x - x.mean(dim=2, keepdim=True)
    m = mask.to(x.dtype)
    square = x.square().sum(dim=1)
    reached = torch.einsum("bij,bcj->bci", m, x)
    numerator = m.sum(dim=2) * square + torch.einsum("bij,bj->bi", m, square)
    numerator = numerator - 2 * (x * reached).sum(dim=1)
    denominator = x.shape[2] * square + square.sum(dim=1, keepdim=True)
    constant = (denominator.detach().sum(dim=1) <= 1e-12 * energy)[:, None] | (denominator == 0)
    safe = torch.where(constant, torch.ones_like(denominator), denominator)
    return torch.where(constant, torch.zeros_like(numerator), numerator / safe).clamp(0, 1)


def affinity_contrast_from_distances(
    pairs: Float[Tensor, "batch pairs"], mask: Bool[Tensor, "batch n n"]
) -> Float[Tensor, "batch n"]:
    """Compute J (GeoReg eq 6) from squared distances delta_ij, i < j row by row, of any scale.

    J inherits the relative error of the distances. Where all of them are 0, J is 0. O(batch N^2)
    time and memory. Not meant to be differentiated.
    """
    n = mask.shape[1]
    rows, columns = torch.triu_indices(n, n, offset=1, device=pairs.device)
    delta = torch.zeros(len(pairs), n, n, device=pairs.device, dtype=pairs.dtype)
    delta[:, rows, columns] = pairs
    delta[:, columns, rows] = pairs
    total = delta.sum(dim=2)
    inside = (delta * mask).sum(dim=2)
    return torch.where(total > 0, inside / total.where(total > 0, 1.0), 0.0)


def _check_positions(x: Tensor, neighbourhood: Tensor) -> None:
    if neighbourhood.shape[:2] != (x.shape[0], x.shape[2]):
        raise ShapeError(
            f"features and neighbourhoods must agree in (batch, N), got {x.shape[0]}, "
            f"{x.shape[2]} features and {tuple(neighbourhood.shape[:2])} neighbourhoods. Pair "
            "layers whose grids have the same height and width."
        )


def _power_of_two_scale(x: Tensor) -> Tensor:
    """Return 2^-e for each image, e the exponent of its largest difference to position 0.

    J does not depend on scale, a power of two rounds nothing, and squares keep their range.
    """
    largest = (x - x[:, :, :1]).abs().amax(dim=(1, 2), keepdim=True)
    exponent = torch.frexp(largest).exponent.clamp(-120, 120)
    return torch.ldexp(torch.ones_like(largest), -exponent)


def _check_ids(neighbours: Tensor, n: int) -> None:
    if neighbours.numel() and not (int(neighbours.min()) >= 0 and int(neighbours.max()) < n):
        raise ConfigError(
            f"neighbours must be ids from 0 to {n - 1}, got {int(neighbours.min())} to "
            f"{int(neighbours.max())}. The array may be damaged or belong to another layer."
        )


def _int32(ids: Tensor) -> Tensor:
    return ids.to(torch.int32).contiguous()


def _call(apply: Any, *arguments: Any) -> Tensor:
    result: Tensor = apply(*arguments)
    return result


def _tree_forward(x: Tensor, parents: Tensor, radii: tuple[int, ...], kept: Tensor) -> Tensor:
    affinity = x.new_empty(x.shape[0], len(radii), x.shape[2])
    valid = torch.empty(x.shape[0], dtype=torch.bool)
    over_images(
        tree_forward, x.shape[0], x.numpy(), parents.numpy(), np.asarray(radii, np.int64),
        affinity.numpy(), valid.numpy(), kept.numpy(),
    )  # fmt: skip
    if not bool(valid.all()):
        raise not_a_tree(valid)
    return affinity


class _TreeAffinity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, parents: Tensor, radius: int) -> Tensor:
        # A third of the loss's time is the neighbour sums: the backward reads them again.
        n_kept = (x.shape[0], x.shape[2], padded(x.shape[1] + 2))
        kept = x.new_empty(n_kept if ctx.needs_input_grad[0] else (0, 0, 0))
        affinity = _tree_forward(x.detach(), parents, (radius,), kept)[:, 0]
        ctx.radius = radius
        ctx.save_for_backward(x, parents, affinity, kept)
        return affinity

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        x, parents, affinity, kept = ctx.saved_tensors
        grad = torch.empty_like(x)
        over_images(
            tree_backward, x.shape[0], x.detach().numpy(), parents.numpy(), ctx.radius,
            affinity.detach().numpy(), kept.numpy(), outer[0].contiguous().numpy(), grad.numpy(),
        )  # fmt: skip
        return grad, None, None


class _ListAffinity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, neighbours: Tensor, k: int) -> Tensor:
        affinity = x.new_empty(x.shape[0], x.shape[2])
        over_images(
            list_forward, x.shape[0], x.detach().numpy(), neighbours.numpy(), k, affinity.numpy()
        )
        ctx.k = k
        ctx.save_for_backward(x, neighbours, affinity)
        return affinity

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        x, neighbours, affinity = ctx.saved_tensors
        grad = torch.empty_like(x)
        over_images(
            list_backward, x.shape[0], x.detach().numpy(), neighbours.numpy(), ctx.k,
            affinity.detach().numpy(), outer[0].contiguous().numpy(), grad.numpy(),
        )  # fmt: skip
        return grad, None, None
