"""Boxes of images brought to one size, whole batches at once: two small matrix products an image.

Bilinear with the support widened where the box is larger than the result (antialiased), as image
libraries do it. What lies outside of the box never enters.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

__all__ = ["resample_boxes"]


def resample_boxes(
    images: UInt8[Tensor, "batch 3 h w"],
    boxes: Float[Tensor, "batch 4"],
    size: tuple[int, int],
) -> UInt8[Tensor, "batch 3 h2 w2"]:
    """Bring box (top, left, height, width) of each image, in pixels, to `size`.

    Float32 arithmetic, rounded once: within one step of 255 on every device. O(pixels (h2 + w2)).
    """
    height, width = images.shape[2:]
    rows = _weights(boxes[:, 0], boxes[:, 2], size[0], height)
    columns = _weights(boxes[:, 1], boxes[:, 3], size[1], width)
    pixels = images.float()
    narrow = torch.einsum("bchw,bxw->bchx", pixels, columns)
    result = torch.einsum("bchx,byh->bcyx", narrow, rows)
    return result.round().clamp(0, 255).to(torch.uint8)


def _weights(
    start: Float[Tensor, " batch"], length: Float[Tensor, " batch"], n_out: int, n_in: int
) -> Float[Tensor, "batch out in"]:
    """Return how much each source position gives to each result position; rows sum to 1."""
    scale = (length / n_out)[:, None, None]
    out = torch.arange(n_out, device=start.device, dtype=torch.float32)[None, :, None]
    position = torch.arange(n_in, device=start.device, dtype=torch.float32)[None, None]
    begin, end = start[:, None, None], (start + length)[:, None, None]
    centre = begin + (out + 0.5) * scale - 0.5
    triangle = (1 - (position - centre).abs() / scale.clamp_min(1)).clamp_min(0)
    inside = (position >= begin) & (position <= end - 1)
    weights = torch.where(inside, triangle, 0.0)
    return weights / weights.sum(dim=2, keepdim=True)
