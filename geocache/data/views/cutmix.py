"""CutMix: a box of each image is another image's (Yun et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float64, Shaped, UInt8
from torch import Tensor

from geocache.data.views._mix import MixPolicy

__all__ = ["POLICY", "CutMix"]


@dataclass(frozen=True)
class CutMix(MixPolicy):
    """Paste the same box of the partner's view; the labels weigh as the pixels do.

    The box has about `1 - l` of the area, `l ~ Beta(alpha, alpha)`, the image's aspect, its centre
    anywhere, and is cut at the border (CutMix, section 3.1); the weight is what the cut box leaves.
    Exact: every pixel is one of the two images'. Options and errors are those of `MixPolicy`.
    """

    columns: ClassVar[tuple[str, ...]] = ("top", "left", "height", "width")
    n_draws: ClassVar[int] = 4

    def parameters(
        self, draws: Float64[np.ndarray, "n draws"], image_shape: tuple[int, int, int]
    ) -> Shaped[np.ndarray, "n columns"]:
        """Return the weight of the row's own image, and the box in whole pixels."""
        size = np.array(self.output_shape(image_shape)[:2])
        sides = np.rint(np.sqrt(1 - self.beta(draws[:, :1], draws[:, 3:])) * size)
        centre = np.floor(draws[:, 1:3] * size)
        low = (centre - np.floor(sides / 2)).clip(0, size)
        high = (centre - np.floor(sides / 2) + sides).clip(0, size)
        weight = 1 - (high - low).prod(axis=1, keepdims=True) / size.prod()
        return np.concatenate([weight, low, high - low], axis=1)

    def blend(
        self,
        images: UInt8[Tensor, "batch 3 h w"],
        partners: UInt8[Tensor, "batch 3 h w"],
        mixing: Shaped[Tensor, "batch mixing"],
    ) -> UInt8[Tensor, "batch 3 h w"]:
        """Return the images with the partners' boxes in them."""
        top, left, height, width = mixing[:, 1:].to(torch.int64)[:, :, None].unbind(1)
        y, x = (torch.arange(n, device=images.device) for n in images.shape[2:])
        rows, columns = (y >= top) & (y < top + height), (x >= left) & (x < left + width)
        return torch.where(rows[:, None, :, None] & columns[:, None, None, :], partners, images)


POLICY = CutMix
