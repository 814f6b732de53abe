"""The difference of neighbouring patterns of two networks, GeoReg eq 3-5."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geocache.errors import ConfigError, ShapeError
from geocache.geometry._compile import over_images
from geocache.geometry._pattern_kernels import pattern_and_gradient
from geocache.geometry.features import flatten_grid
from geocache.geometry.masks import knn_mask, not_a_tree, tree_mask

__all__ = ["pattern_difference"]

_BY_HOPS, _BY_LIST, _EVERYBODY = 0, 1, 2


def pattern_difference(
    features: Float[Tensor, "batch channels *grid"],
    *,
    distances: Float[Tensor, "batch pairs"],
    parents: Int[Tensor, "batch n"] | None = None,
    neighbours: Int[Tensor, "batch n k_max"] | None = None,
    radius: int | None = None,
    k: int | None = None,
) -> Float[Tensor, " batch"]:
    """Compute |(D_S o M) - (D_T o M)|_F for each image, D row-normalised (GeoReg eq 3-5).

    M holds the nodes within `radius` hops on the tree `parents`, the first `k` of the lists in
    `neighbours`, or, with neither tree nor lists, all pairs. distances: the teacher's delta_ij for
    i < j row by row, of any scale. Differentiable in the features; the gradient is 0 where the loss
    is 0. A constant map has D = 0. Invariant to scale and shift. O(sum_ij m_ij C + N^2) an image,
    no N x N matrix of the student's on the CPU.

    Raises ConfigError for a radius or k out of range or parents that are no tree, ShapeError when
    the grids differ.
    """
    x = flatten_grid(features)
    n = x.shape[2]
    if distances.shape != (x.shape[0], n * (n - 1) // 2):
        raise ShapeError(
            f"features and distances must agree in (batch, N), got {x.shape[0]}, {n} features and "
            f"{tuple(distances.shape)} pairs. Pair layers whose grids are equal."
        )
    kind, hood, reach = _neighbourhood(parents, neighbours, radius, k, x)
    if x.device.type != "cpu":
        return _dense(x, distances, kind, hood, reach)
    pairs = distances.detach().to(x.dtype).contiguous()
    wanted = torch.is_grad_enabled() and x.requires_grad
    result: Tensor = _Pattern.apply(x.contiguous(), kind, hood, reach, pairs, wanted)
    return result


def _neighbourhood(
    parents: Tensor | None,
    neighbours: Tensor | None,
    radius: int | None,
    k: int | None,
    x: Tensor,
) -> tuple[int, Tensor, int]:
    batch, n = x.shape[0], x.shape[2]
    if parents is not None:
        if parents.shape != (batch, n):
            raise ShapeError(f"parents must be {(batch, n)}, got {tuple(parents.shape)}.")
        if radius is None or radius < 1:
            raise ConfigError(f"radius must be a whole number of hops from 1 up, got {radius}.")
        hood = parents.to(torch.int32).unsqueeze(2).contiguous()
        return _BY_HOPS, hood, min(radius, max(n - 1, 1))
    if neighbours is not None:
        if neighbours.shape[:2] != (batch, n):
            raise ShapeError(f"neighbours must be {(batch, n)}, got {tuple(neighbours.shape)}.")
        k = neighbours.shape[2] if k is None else k
        if not 1 <= k <= neighbours.shape[2]:
            raise ConfigError(f"k must be between 1 and {neighbours.shape[2]}, got {k}.")
        return _BY_LIST, neighbours.to(torch.int32).contiguous(), k
    return _EVERYBODY, torch.zeros(batch, 1, 1, dtype=torch.int32, device=x.device), 0


def _dense(x: Tensor, distances: Tensor, kind: int, hood: Tensor, reach: int) -> Tensor:
    """Do the same with a mask and matrices, for devices without compiled kernels."""
    n = x.shape[2]
    square = x.square().sum(1)
    ours = (square[:, :, None] + square[:, None] - 2 * x.transpose(1, 2) @ x).clamp_min(0)
    theirs = torch.zeros_like(ours)
    i, j = torch.triu_indices(n, n, offset=1, device=x.device)
    theirs[:, i, j] = theirs[:, j, i] = distances.to(x.dtype)
    if kind == _BY_HOPS:
        mask = tree_mask(hood[:, :, 0], reach)
    elif kind == _BY_LIST:
        mask = knn_mask(hood, reach)
    else:
        mask = ~torch.eye(n, dtype=torch.bool, device=x.device).expand_as(ours)
    difference = (_normalised(ours) - _normalised(theirs)) * mask
    squares = difference.square().sum((1, 2))
    zero = squares == 0
    return torch.where(zero, torch.zeros_like(squares), squares.where(~zero, 1.0).sqrt())


def _normalised(delta: Tensor) -> Tensor:
    total = delta.sum(2, keepdim=True)
    return torch.where(total > 0, delta / total.where(total > 0, 1.0), torch.zeros_like(delta))


class _Pattern(torch.autograd.Function):
    """The gradient is formed on the way: finding pairs and distances again would double the price.

    What is kept for the backward pass is as large as the features.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kind: int, hood: Tensor, reach: int, pairs: Tensor, wanted: bool
    ) -> Tensor:
        n_images = x.shape[0]
        loss, scales = x.new_empty(n_images), x.new_empty(n_images)
        valid = torch.empty(n_images, dtype=torch.bool)
        gradient = torch.empty_like(x) if wanted else x.new_empty(0, 0, 0)
        over_images(
            pattern_and_gradient, n_images, x.detach().numpy(), kind, hood.numpy(), reach,
            pairs.numpy(), loss.numpy(), valid.numpy(), gradient.numpy(), scales.numpy(),
        )  # fmt: skip
        if not bool(valid.all()):
            raise not_a_tree(valid)
        ctx.save_for_backward(gradient, scales)
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        gradient, scales = ctx.saved_tensors
        return gradient * (outer[0] * scales)[:, None, None], None, None, None, None, None
