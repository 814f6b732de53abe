"""CNN-1 and its relatives: student and auxiliary teachers of InfoFlow (Passalis et al. 2020).

Three blocks of 3x3 convolution without padding, batch norm, ReLU and 2x2 max-pooling, then one
hidden layer. CNN-1 (8, 16, 32; 64) and CNN-1-A (16, 32, 64; 128) are the published networks. Of
CNN-1-L (about 6 k parameters) and CNN-1-H (larger than A) only the sizes are published; the widths
here are our choice: L halves CNN-1's filters and keeps its hidden layer, H doubles A throughout.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import nn

from geocache.errors import ConfigError
from geocache.models._blocks import linear_relu, require_size

__all__ = ["VARIANTS", "build"]

VARIANTS: dict[str, dict[str, Any]] = {
    "cnn1": {"widths": (8, 16, 32), "hidden": 64},
    "cnn1_a": {"widths": (16, 32, 64), "hidden": 128},
    "cnn1_h": {"widths": (32, 64, 128), "hidden": 256},
    "cnn1_l": {"widths": (4, 8, 16), "hidden": 64},
}


def _block(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(n_in, n_out, 3),
            bn=nn.BatchNorm2d(n_out),
            relu=nn.ReLU(inplace=True),
            pool=nn.MaxPool2d(2),
        )
    )


def build(
    *,
    n_classes: int,
    input_shape: tuple[int, int, int],
    widths: Sequence[int] = (8, 16, 32),
    hidden: int = 64,
) -> nn.Module:
    """Build CNN-1; with 10 classes at 3x32x32 the parameters count

    cnn1 15,050; cnn1_a 57,994; cnn1_h 227,594; cnn1_l 6,442.

    Layers: `block1`, `block2`, `block3` are read after pooling, `fc1` (the last hidden layer) after
    its ReLU, `fc2` are the logits.

    Args:
        n_classes: number of logits.
        input_shape: (channels, height, width); `fc1` adapts to it.
        widths: filters of the three blocks.
        hidden: width of the hidden layer.

    Raises ShapeError when an image is smaller than 22x22, ConfigError when a width is not positive.
    """
    require_size(input_shape, 22, "cnn1")
    if len(widths) != 3 or min(*widths, hidden) < 1:
        raise ConfigError(
            f"widths must be three positive numbers and hidden one, got widths {list(widths)} "
            f"and hidden {hidden} (model cnn1)."
        )
    channels, height, width = input_shape
    for _ in widths:
        height, width = (height - 2) // 2, (width - 2) // 2
    first, second, third = widths
    return nn.Sequential(
        OrderedDict(
            block1=_block(channels, first),
            block2=_block(first, second),
            block3=_block(second, third),
            flatten=nn.Flatten(),
            fc1=linear_relu(third * height * width, hidden),
            fc2=nn.Linear(hidden, n_classes),
        )
    )
