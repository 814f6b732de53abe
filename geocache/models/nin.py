"""NiN: Network in Network (Lin et al. 2014) in the size of GeoReg's Table 1.

Three convolutions, each followed by two 1x1 layers, and global average pooling: 966,986 parameters
and 222.5 M multiply-accumulates with 10 classes at 3x32x32, the figures of GeoReg section 4.1.
They come out with `cccp6` as wide as the classes; Table 1 prints 100 there. What GeoReg leaves open
follows the original network: 3x3 pooling with stride 2 (max, then average) and dropout after it.
Weights start as He et al. 2015 propose: nine layers without batch norm do not train from torch's
default. The last 1x1 layer has no ReLU, so that logits may be negative.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from geocache.errors import ConfigError
from geocache.models._blocks import conv_relu, require_size

__all__ = ["build"]


def build(*, n_classes: int, input_shape: tuple[int, int, int], dropout: float = 0.5) -> nn.Module:
    """Build NiN; 966,986 parameters with 10 classes and 3 input channels, at any image size.

    Layers: `conv1`, `cccp1`, `cccp2`, `pool1`, `conv2`, `cccp3`, `cccp4`, `pool2`, `conv3`,
    `cccp5` (all read after their ReLU) and `cccp6`; the grids at 32x32 are 32, 16 and 8.

    Args:
        n_classes: number of logits.
        input_shape: (channels, height, width).
        dropout: probability of zeroing a value after each of the two poolings, in [0, 1).

    Raises ShapeError when an image is smaller than 4x4, ConfigError when `dropout` is out of range.
    """
    require_size(input_shape, 4, "nin")
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout must be in [0, 1), got {dropout} (model nin).")
    model = nn.Sequential(
        OrderedDict(
            conv1=conv_relu(input_shape[0], 192, 5),
            cccp1=conv_relu(192, 160, 1),
            cccp2=conv_relu(160, 96, 1),
            pool1=nn.MaxPool2d(3, stride=2, ceil_mode=True),
            drop1=nn.Dropout(dropout),
            conv2=conv_relu(96, 192, 5),
            cccp3=conv_relu(192, 192, 1),
            cccp4=conv_relu(192, 192, 1),
            pool2=nn.AvgPool2d(3, stride=2, ceil_mode=True),
            drop2=nn.Dropout(dropout),
            conv3=conv_relu(192, 192, 3),
            cccp5=conv_relu(192, 192, 1),
            cccp6=nn.Conv2d(192, n_classes, 1),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
        )
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    return model
