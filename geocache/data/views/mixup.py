"""Mixup: each image is a weighted mean of two (Zhang et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float64, Shaped, UInt8
from torch import Tensor

from geocache.data.views._mix import MixPolicy
from geocache.errors import ConfigError

__all__ = ["POLICY", "Mixup"]

_ONE = 2**15


@dataclass(frozen=True)
class Mixup(MixPolicy):
    """`w x_i + (1 - w) x_j` with `w ~ Beta(alpha, alpha)` (mixup, eq 1), labels alike.

    x_j is the partner's view. With `probability` p an image is mixed at all, else w = 1. Exact on
    every device: w is rounded to 2^-15, and pixels are sums of whole numbers, rounded once.
    Raises ConfigError for an alpha outside (0, 100], and a probability outside 0 to 1.
    """

    alpha: float = 1.0
    probability: float = 1.0
    columns: ClassVar[tuple[str, ...]] = ()
    n_draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        """Refuse what is no distribution."""
        super().__post_init__()
        if not 0 < self.alpha <= 100 or not 0 <= self.probability <= 1:
            raise ConfigError(
                "mixup must have an alpha above 0 and at most 100 and a probability from 0 to 1, "
                f"got {self.alpha} and {self.probability}."
            )

    def parameters(
        self, draws: Float64[np.ndarray, "n draws"], image_shape: tuple[int, int, int]
    ) -> Shaped[np.ndarray, "n columns"]:
        """Return the weight of the row's own image."""
        from scipy.special import betaincinv

        weight = np.rint(_ONE * betaincinv(self.alpha, self.alpha, draws[:, :1])) / _ONE
        return np.where(draws[:, 1:] < self.probability, weight, 1.0)

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
