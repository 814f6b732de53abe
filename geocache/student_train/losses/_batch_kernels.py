"""Kernels between the rows of a batch, for losses that compare images with each other (InfoFlow).

Such losses have no per-row sufficient target: the cache holds features, the step builds the kernel.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from geocache.errors import ConfigError, ShapeError
from geocache.geometry import unit_length
from geocache.student_train.losses._activations import Stored, activation_target, refuse_stored
from geocache.student_train.losses._base import full_precision

__all__ = [
    "Features",
    "batch_distances",
    "check_features",
    "conditional",
    "cosine_kernel",
    "feature_rows",
    "feature_target",
    "student_t_kernel",
]

Features = Literal["pooled", "flattened"]


def feature_target(features: Features, dtype: Stored) -> str:
    """Return the target that holds the teacher's features; `dtype` is that of whole maps."""
    return "pooled" if features == "pooled" else activation_target(dtype)


def check_features(features: Features, loss: str, dtype: Stored = "float16") -> None:
    """Raise ConfigError for other features, another type, or one chosen for pooled features."""
    if features not in ("pooled", "flattened"):
        raise ConfigError(f"{loss} features must be 'pooled' or 'flattened', got {features!r}.")
    if features == "pooled":
        refuse_stored(dtype, loss, "pooled features")
    activation_target(dtype)


def feature_rows(x: Tensor, features: Features) -> Float[Tensor, "batch d"]:
    """Return one vector an image: the mean over positions, or the map flattened."""
    if x.shape[0] < 2:
        raise ShapeError(f"rows of a batch must be at least 2 to be compared, got {x.shape[0]}")
    x = full_precision(x)
    if x.ndim > 2 and features == "pooled":
        return x.flatten(2).mean(dim=2)
    return x.flatten(1)


def cosine_kernel(x: Float[Tensor, "batch d"]) -> Float[Tensor, "batch batch"]:
    """Compute (cos(a, b) + 1) / 2 (InfoFlow section 3); a zero row has cosine 0 with all."""
    unit = unit_length(x)
    return (unit @ unit.T + 1) / 2


def batch_distances(
    x: Float[Tensor, "batch d"], epsilon: float = 1e-6
) -> Float[Tensor, "batch batch"]:
    """Compute sqrt(max(|a - b|^2, 0) + epsilon), as the authors' code does; smooth at 0."""
    x = x - x.mean(dim=0, keepdim=True)
    square = x.square().sum(dim=1)
    squared = square[:, None] + square[None] - 2 * x @ x.T
    # What cancels there in float32 is no distance, and the root would make it 1e-3 |x|.
    squared.fill_diagonal_(0)
    return (squared.clamp_min(0) + epsilon).sqrt()


def student_t_kernel(x: Float[Tensor, "batch d"], p: float) -> Float[Tensor, "batch batch"]:
    """Compute 1 / (1 + |a - b|^p) (InfoFlow section 3)."""
    return 1 / (1 + batch_distances(x).pow(p))


def conditional(
    kernel: Float[Tensor, "batch batch"], diagonal: bool
) -> Float[Tensor, "batch batch"]:
    """Divide by sums to get p(i|j) (InfoFlow eq 5-6): rows with, columns without the diagonal.

    With the diagonal this is the authors' code; without it, the paper's equation.
    """
    if diagonal:
        return kernel / kernel.sum(dim=1, keepdim=True)
    off = kernel * (1 - torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device))
    return off / off.sum(dim=0, keepdim=True)
