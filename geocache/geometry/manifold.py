"""How far two networks' local features are from one manifold structure (GeoReg section 3.3).

A measure to report, not a loss: it depends on the features through their trees and neighbour
lists, which have no gradient.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geocache.errors import ConfigError, ShapeError
from geocache.geometry.distances import squared_distances
from geocache.geometry.features import check_finite, flatten_grid
from geocache.geometry.knn import nearest_neighbours
from geocache.geometry.masks import knn_mask, tree_mask
from geocache.geometry.mst import minimum_spanning_tree

__all__ = ["manifold_distance"]


def manifold_distance(
    first: Float[Tensor, "batch channels_1 *grid_1"],
    second: Float[Tensor, "batch channels_2 *grid_2"],
    *,
    k: int,
    radius: int | None,
    bandwidth: float = 1.0,
) -> Float[Tensor, " batch"]:
    """Compute the local manifold distance of each image's two feature sets (GeoReg eq 9-10).

    `d = 1 - (Er(G1, M2) / Er(G1, M1) + Er(G2, M1) / Er(G2, M2)) / 2`, with the reordering
    efficiency `Er(G, M) = sum_ij w_ij m_ij / sum_ij w_ij`. M_n is the mask of `radius` hops on the
    minimum spanning tree of set n (eq 7); G_n its k-NN graph, i and j joined where either is among
    the k nearest of the other, with heat-kernel weights `w_ij = exp(-delta_ij / t)`. The paper
    leaves t open: here t is `bandwidth` times the mean of delta over the graph's edges.

    0 where both sets have one structure, at most 1; below 0 where the other set's tree covers a
    graph better than its own does. Symmetric in the two sets. Invariant to each set's scale, shift
    and rotation, and to one order of the positions for both. A constant map is a set of duplicates:
    all weights 1, the tree a star around position 0; a single position has d = 0. O(batch N^2 C)
    time and O(batch N^2) memory, on the CPU, in float64.

    first, second: finite maps with positions that correspond, row by row; channels may differ. k: 1
    to N - 1 (of no effect where N = 1). radius: hops from 1 up, None reaches every position (then
    d = 0). Returns float64 (batch,).

    Raises ShapeError when the sets differ in images or positions or have no grid, ConfigError for a
    k, radius or bandwidth out of range, NumericError for values that are not finite.
    """
    if radius is not None and radius < 1:
        raise ConfigError(f"radius must be a whole number of hops from 1 up, got {radius}.")
    if not 0 < bandwidth < math.inf:
        raise ConfigError(f"bandwidth must be a positive number, got {bandwidth}.")
    sets = []
    for features, which in ((first, "first set"), (second, "second set")):
        check_finite(features, which)
        # Trees, lists and weights from the same float64 distances: a set's own nearest neighbours
        # then lie within its own mask, and Er(G, M) of a set with itself is never 0.
        sets.append(flatten_grid(features.detach()).cpu().double())
    (batch, _, n), (other_batch, _, other_n) = sets[0].shape, sets[1].shape
    if (batch, n) != (other_batch, other_n):
        raise ShapeError(
            f"feature sets must agree in (batch, N), got ({batch}, {n}) and ({other_batch}, "
            f"{other_n}). Compare layers whose grids are equal."
        )
    if n == 1:
        return torch.zeros(batch, dtype=torch.float64)
    masks = [tree_mask(minimum_spanning_tree(x), radius) for x in sets]
    ratios = []
    for x, own, other in ((sets[0], *masks), (sets[1], *masks[::-1])):
        weights = _heat_kernel_graph(x, k, bandwidth)
        ratios.append((weights * other).sum((1, 2)) / (weights * own).sum((1, 2)))
    return 1 - (ratios[0] + ratios[1]) / 2


def _heat_kernel_graph(
    x: Float[Tensor, "batch channels n"], k: int, bandwidth: float
) -> Float[Tensor, "batch n n"]:
    """Return the weights up to a factor an image, which Er divides out: the heaviest edge has 1."""
    joined: Bool[Tensor, "batch n n"] = knn_mask(nearest_neighbours(x, k))
    joined = joined | joined.transpose(1, 2)
    delta = squared_distances(x)
    mean = (delta * joined).sum((1, 2), keepdim=True) / joined.sum((1, 2), keepdim=True)
    scale = torch.where(mean > 0, mean, torch.ones_like(mean)) * bandwidth
    delta = delta.where(joined, math.inf)
    return torch.exp((delta.amin((1, 2), keepdim=True) - delta) / scale)
