"""Exact k nearest neighbours of each local feature, ties by index (GeoReg section 3.2).

One pass a row keeps the k best in order; a candidate that is no better than the k-th costs one
comparison, so the sort is nearly free next to the distances.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from geocache.errors import ConfigError
from geocache.geometry._compile import kernel, over_images
from geocache.geometry._distance_kernels import distances_from, power_of_two_scale
from geocache.geometry.features import flatten_grid

__all__ = ["nearest_neighbours"]


def nearest_neighbours(
    features: Float[Tensor, "batch channels *grid"], k: int
) -> Int[Tensor, "batch n k"]:
    """Return for each node the k nearest other nodes, nearest first, equal distances by index.

    The first k' columns are the k'-nearest lists for every k' <= k. O(batch N^2 C) time. k: 1 to
    N - 1. Returns int32 on the CPU.

    Raises ConfigError when k is out of range, ShapeError when the features have no grid.
    """
    x = flatten_grid(features.detach()).cpu().contiguous()
    n = x.shape[2]
    if not 1 <= k < n:
        raise ConfigError(
            f"k must be between 1 and N - 1 = {n - 1} neighbours, got {k}. Choose a smaller k or a "
            "layer with a larger grid."
        )
    neighbours = torch.empty(x.shape[0], n, k, dtype=torch.int32)
    over_images(_knn, x.shape[0], x.numpy(), neighbours.numpy())
    return neighbours


@kernel
def _knn(start: int, stop: int, features: Any, neighbours: Any) -> None:
    n_channels, n = features.shape[1], features.shape[2]
    k = neighbours.shape[2]
    point = np.empty(n_channels, features.dtype)
    row = np.empty(n, features.dtype)
    held = np.empty(k, features.dtype)
    for image in range(start, stop):
        x = features[image]
        columns = x * power_of_two_scale(x)
        for i in range(n):
            for c in range(n_channels):
                point[c] = columns[c, i]
            distances_from(columns, point, n, row)
            count = 0
            for j in range(n):
                if j == i or (count == k and row[j] >= held[k - 1]):
                    continue
                # Candidates come in index order: going in after equals keeps ties by index.
                place = count if count < k else k - 1
                while place > 0 and held[place - 1] > row[j]:
                    held[place] = held[place - 1]
                    neighbours[image, i, place] = neighbours[image, i, place - 1]
                    place -= 1
                held[place] = row[j]
                neighbours[image, i, place] = j
                count = min(count + 1, k)
