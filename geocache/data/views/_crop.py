"""Crops and mirror images of whole batches: each pixel is copied, none is computed.

On a CPU a compiled loop copies rows (0.05 ms for 128 images of 32 x 32 on one thread, where torch's
indexing takes 1.8); elsewhere it is one indexing operation.
"""

from __future__ import annotations

import torch
from jaxtyping import Integer, UInt8
from torch import Tensor

from geocache.geometry._compile import over_images
from geocache.geometry._pixel_kernels import crop

__all__ = ["crop_and_flip"]


def crop_and_flip(
    images: UInt8[Tensor, "batch 3 h w"],
    top: Integer[Tensor, " batch"],
    left: Integer[Tensor, " batch"],
    flip: Integer[Tensor, " batch"],
    *,
    pad: int,
) -> UInt8[Tensor, "batch 3 h w"]:
    """Return what stands at (top, left) of each image padded with `pad` black pixels, mirrored.

    The crop has the image's size; it is mirrored after the crop. O(pixels).
    """
    if images.device.type == "cpu":
        place = torch.stack([top, left, flip], dim=1).to(torch.int64)
        out = torch.empty(images.shape, dtype=torch.uint8)
        source = images.contiguous()
        over_images(crop, len(images), source.numpy(), place.numpy(), pad, out.numpy())
        return out
    height, width = images.shape[2:]
    y = torch.arange(height, device=images.device)[None] + (top[:, None] - pad)
    x = torch.arange(width, device=images.device)[None].expand(len(images), -1)
    x = torch.where(flip[:, None] != 0, width - 1 - x, x) + (left[:, None] - pad)
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None]
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    pixels = images.permute(0, 2, 3, 1)[
        batch, y.clamp(0, height - 1)[:, :, None], x.clamp(0, width - 1)[:, None]
    ]
    return (pixels * inside[..., None]).permute(0, 3, 1, 2).contiguous()
