"""CutMix: a box of each image is another image's (Yun et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float64, Shaped, UInt8
from torch import Tensor

from geocache.data.views._mix import MixPolicy
from geocache.errors import ConfigError

__all__ = ["POLICY", "CutMix"]


@dataclass(frozen=True)
class CutMix(MixPolicy):
    """Paste the same box of the partner's view; the labels weigh as the pixels do.

    The box has about `1 - l` of the area, `l ~ Beta(alpha, alpha)`, the image's aspect, its centre
    anywhere, and is cut at the border (CutMix, section 3.1); the weight is what the cut box leaves.
    With `probability` p a box is pasted at all. Exact: every pixel is one of the two images'.
    Raises ConfigError for an alpha outside (0, 100], and a probability outside 0 to 1.
    """

    alpha: float = 1.0
    probability: float = 1.0
    columns: ClassVar[tuple[str, ...]] = ("top", "left", "height", "width")
    n_draws: ClassVar[int] = 4

    def __post_init__(self) -> None:
        """Refuse what is no distribution."""
        super().__post_init__()
        if not 0 < self.alpha <= 100 or not 0 <= self.probability <= 1:
            raise ConfigError(
                "cutmix must have an alpha above 0 and at most 100 and a probability from 0 to 1, "
                f"got {self.alpha} and {self.probability}."
            )

    def parameters(
        self, draws: Float64[np.ndarray, "n draws"], image_shape: tuple[int, int, int]
    ) -> Shaped[np.ndarray, "n columns"]:
        """Return the weight of the row's own image, and the box in whole pixels."""
        from scipy.special import betaincinv

        size = np.array(self.output_shape(image_shape)[:2])
        part = np.sqrt(1 - betaincinv(self.alpha, self.alpha, draws[:, :1]))
        part = np.where(draws[:, 3:] < self.probability, part, 0.0)
        sides = np.rint(part * size)
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
