"""Bring maps to another grid: one way for teachers' and students' maps, so that they can meet."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

__all__ = ["to_grid"]


def to_grid(
    maps: Float[Tensor, "batch channels *grid"], grid: tuple[int, ...]
) -> Float[Tensor, "batch channels *smaller"]:
    """Interpolate (batch, channels, H, W) bilinearly to `grid`; equal grids pass untouched."""
    if tuple(maps.shape[2:]) == grid:
        return maps
    return F.interpolate(maps, size=grid, mode="bilinear", align_corners=False)
