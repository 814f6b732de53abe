"""Changes of brightness, contrast, saturation and hue, with a shift and a mirror image beside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64, Shaped, UInt8
from torch import Tensor

from geocache.data.views._base import ViewPolicy
from geocache.data.views._crop import crop_and_flip
from geocache.errors import ConfigError

__all__ = ["POLICY", "ColorJitter"]

_GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class ColorJitter(ViewPolicy):
    """Scale brightness, contrast and saturation by 1 - x to 1 + x, turn the hue by -hue to hue.

    In this order, each factor uniform; hue in turns of the colour circle. Contrast is about the
    image's mean grey, saturation about each pixel's. Before, the image is shifted by up to `pad`
    pixels (black comes in) and mirrored with probability 1/2. Float32 arithmetic, rounded once:
    within one step of 255 on every device. Raises ConfigError for amounts outside their ranges.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    pad: int = 0
    columns: ClassVar[tuple[str, ...]] = (
        "top", "left", "flip", "brightness", "contrast", "saturation", "hue",
    )  # fmt: skip
    dtype: ClassVar[str] = "float32"
    n_draws: ClassVar[int] = 7

    def __post_init__(self) -> None:
        """Refuse amounts that are none."""
        amounts = (self.brightness, self.contrast, self.saturation)
        if not all(0 <= amount <= 1 for amount in amounts) or not 0 <= self.hue <= 0.5:
            raise ConfigError(
                "color_jitter's brightness, contrast and saturation must be from 0 to 1 and hue "
                f"from 0 to 0.5, got {[*amounts, self.hue]}."
            )
        if not 0 <= self.pad <= 1000:
            raise ConfigError(f"color_jitter's pad must be from 0 to 1000 pixels, got {self.pad}.")

    def parameters(
        self, draws: Float64[np.ndarray, "n draws"], image_shape: tuple[int, int, int]
    ) -> Shaped[np.ndarray, "n columns"]:
        """Return the place of the crop, 1 where it is mirrored, three factors and the turn."""
        place = np.floor(draws[:, :2] * (2 * self.pad + 1))
        amounts = np.array([self.brightness, self.contrast, self.saturation])
        factors = 1 + amounts * (2 * draws[:, 3:6] - 1)
        turn = self.hue * (2 * draws[:, 6:] - 1)
        return np.concatenate([place, draws[:, 2:3] < 0.5, factors, turn], axis=1)

    def apply(
        self, images: UInt8[Tensor, "batch 3 h w"], parameters: Shaped[Tensor, "batch columns"]
    ) -> UInt8[Tensor, "batch 3 h w"]:
        """Shift, mirror and colour the batch."""
        top, left, flip = parameters[:, :3].to(torch.int64).unbind(1)
        x = crop_and_flip(images, top, left, flip, pad=self.pad).float()
        factors = parameters[:, 3:, None, None, None].float()
        x = (x * factors[:, 0]).clamp(0, 255)
        mean = _grey(x).mean(dim=(2, 3), keepdim=True)
        x = (mean + (x - mean) * factors[:, 1]).clamp(0, 255)
        grey = _grey(x)
        x = (grey + (x - grey) * factors[:, 2]).clamp(0, 255)
        return _turned(x, factors[:, 3]).round().clamp(0, 255).to(torch.uint8)


def _grey(x: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 1 h w"]:
    weights = torch.tensor(_GREY, device=x.device).view(1, 3, 1, 1)
    return (x * weights).sum(dim=1, keepdim=True)


def _turned(
    x: Float[Tensor, "batch 3 h w"], turn: Float[Tensor, "batch 1 1 1"]
) -> Float[Tensor, "batch 3 h w"]:
    """Turn the hue of HSV and keep saturation and value."""
    value, lowest = x.amax(dim=1, keepdim=True), x.amin(dim=1, keepdim=True)
    chroma = value - lowest
    safe = torch.where(chroma > 0, chroma, 1.0)
    red, green, blue = x[:, :1], x[:, 1:2], x[:, 2:]
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sector = (sector + 6 * turn) % 6
    channel = torch.tensor([5.0, 3.0, 1.0], device=x.device).view(1, 3, 1, 1)
    k = (channel + sector) % 6
    turned = value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)
    return torch.where(chroma > 0, turned, x)


POLICY = ColorJitter
