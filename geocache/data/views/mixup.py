"""Mixup: each image is a weighted mean of two (Zhang et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float64, Shaped, UInt8
from torch import Tensor

from geocache.data.views._mix import MixPolicy

__all__ = ["POLICY", "Mixup"]

_ONE = 2**15


@dataclass(frozen=True)
class Mixup(MixPolicy):
    """`w x_i + (1 - w) x_j` with `w ~ Beta(alpha, alpha)` (mixup, eq 1), labels alike.

    x_j is the partner's view; options and errors are those of `MixPolicy`. Exact on every device: w
    is rounded to 2^-15, and pixels are sums of whole numbers, rounded once.
    """

    columns: ClassVar[tuple[str, ...]] = ()
    n_draws: ClassVar[int] = 2

    def parameters(
        self, draws: Float64[np.ndarray, "n draws"], image_shape: tuple[int, int, int]
    ) -> Shaped[np.ndarray, "n columns"]:
        """Return the weight of the row's own image."""
        weight: np.ndarray[Any, Any] = np.rint(_ONE * self.beta(draws[:, :1], draws[:, 1:])) / _ONE
        return weight

    def blend(
        self,
        images: UInt8[Tensor, "batch 3 h w"],
        partners: UInt8[Tensor, "batch 3 h w"],
        mixing: Shaped[Tensor, "batch mixing"],
    ) -> UInt8[Tensor, "batch 3 h w"]:
        """Return the weighted means."""
        weight = (mixing[:, 0] * _ONE).to(torch.int32)[:, None, None, None]
        own, other = images.to(torch.int32), partners.to(torch.int32)
        difference = (own - other).mul_(weight)
        sums = other.mul_(_ONE).add_(difference)
        return sums.add_(_ONE // 2).bitwise_right_shift_(15).to(torch.uint8)


POLICY = Mixup
