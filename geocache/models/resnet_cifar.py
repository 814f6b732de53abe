"""Residual networks for small images (He et al. 2016, section 4.2).

A 3x3 convolution, three stages of n basic blocks with 16, 32 and 64 channels (the second and third
stage start with stride 2), global average pooling and one linear layer: depth 6n + 2. Where a stage
changes the shape, `shortcut="pad"` (He's option A) takes every second row and column and pads zero
channels on both sides, without parameters, as the public checkpoints do; `shortcut="conv"`
(option B, GeoReg's networks) is a 1x1 convolution with stride 2 and batch norm. The names of the
layers are those of the public checkpoints.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from geocache.errors import ConfigError

__all__ = ["VARIANTS", "BasicBlock", "PadShortcut", "ResNetCifar", "build"]

VARIANTS: dict[str, dict[str, Any]] = {
    f"resnet{depth}": {"depth": depth} for depth in (20, 32, 44, 56, 110)
}

SHORTCUTS = ("pad", "conv")


class PadShortcut(nn.Module):
    """Subsample by `stride` and pad zero channels on both sides up to `n_out`; no parameters."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        """Take the channel counts before and after, and the stride."""
        super().__init__()
        self.stride = stride
        self.before = (n_out - n_in) // 2
        self.after = n_out - n_in - self.before

    def forward(
        self, x: Float[Tensor, "batch n_in height width"]
    ) -> Float[Tensor, "batch n_out out_height out_width"]:
        """Return the subsampled map with zero channels around its own."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


def _shortcut(kind: str, n_in: int, n_out: int, stride: int) -> nn.Module:
    if stride == 1 and n_in == n_out:
        return nn.Identity()
    if kind == "pad":
        return PadShortcut(n_in, n_out, stride)
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False), bn=nn.BatchNorm2d(n_out)
        )
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around a shortcut, read after the last ReLU."""

    def __init__(self, n_in: int, n_out: int, stride: int, shortcut: str) -> None:
        """Take the channel counts before and after, the stride and the kind of shortcut."""
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.shortcut = _shortcut(shortcut, n_in, n_out, stride)
        self.relu2 = nn.ReLU(inplace=True)

    def forward(
        self, x: Float[Tensor, "batch n_in height width"]
    ) -> Float[Tensor, "batch n_out out_height out_width"]:
        """Return relu(f(x) + shortcut(x))."""
        residual: Tensor = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu2(residual + self.shortcut(x))
        return out


class ResNetCifar(nn.Module):
    """A stem, three stages and a linear classifier; see the module's docstring."""

    def __init__(self, channels: int, n_blocks: int, n_classes: int, shortcut: str) -> None:
        """Take the input's channels, blocks a stage, the number of logits, the shortcut's kind."""
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)

        def stage(n_in: int, n_out: int, stride: int) -> nn.Sequential:
            first = BasicBlock(n_in, n_out, stride, shortcut)
            rest = [BasicBlock(n_out, n_out, 1, shortcut) for _ in range(n_blocks - 1)]
            return nn.Sequential(first, *rest)

        self.layer1 = stage(16, 16, 1)
        self.layer2 = stage(16, 32, 2)
        self.layer3 = stage(32, 64, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch n_classes"]:
        """Return the logits of normalised images."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(self.pool(x).flatten(1))
        return logits


def build(
    *,
    n_classes: int,
    input_shape: tuple[int, int, int],
    depth: int = 20,
    shortcut: str = "pad",
) -> nn.Module:
    """Build a residual network; with 10 classes and 3 input channels the parameters count

    | depth | shortcut="pad" | shortcut="conv" |
    |---|---|---|
    | 20 | 269,722 | 272,474 |
    | 32 | 464,154 | 466,906 |
    | 44 | 658,586 | 661,338 |
    | 56 | 853,018 | 855,770 |
    | 110 | 1,727,962 | 1,730,714 |

    Layers: `layer1`, `layer2`, `layer3` (grids 32, 16 and 8 at 32x32) and each block in them
    (`layer2.0`) are read after their last ReLU; `relu` is the stem's output, `linear` the logits.

    Args:
        n_classes: number of logits.
        input_shape: (channels, height, width); any height and width.
        depth: 6n + 2 layers, n blocks a stage.
        shortcut: "pad" without parameters, or "conv".

    Raises ConfigError when `depth` is not 6n + 2 or `shortcut` is another word.
    """
    if depth < 8 or depth % 6 != 2:
        raise ConfigError(
            f"depth must be 6n + 2 with n of at least 1, got {depth} (model resnet_cifar). "
            "Take 20, 32, 44, 56 or 110."
        )
    if shortcut not in SHORTCUTS:
        raise ConfigError(
            f"shortcut must be one of {', '.join(SHORTCUTS)}, got '{shortcut}' "
            "(model resnet_cifar)."
        )
    return ResNetCifar(input_shape[0], (depth - 2) // 6, n_classes, shortcut)
