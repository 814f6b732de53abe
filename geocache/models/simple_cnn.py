"""SimpleCNN: the small student of GeoReg (Theodorakopoulos et al. 2021, section 4.1, Table 1).

Three 5x5 convolutions of 32, 32 and 64 channels with ReLU, each followed by 2x2 max-pooling, then
1024 -> 64 -> classes: 145,578 parameters and 12.35 M multiply-accumulates with 10 classes at
3x32x32, the two figures that the paper gives. It leaves the kind of pooling and the hidden layer's
nonlinearity open; here they are max and ReLU.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from geocache.models._blocks import conv_relu, linear_relu, require_size

__all__ = ["build"]


def build(*, n_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """Build SimpleCNN; 145,578 parameters with 10 classes at 3x32x32.

    Layers: `conv1`, `conv2`, `conv3` and `fc1` are read after their ReLU; `pool1` to `pool3`,
    `fc2` (the logits). The grids at 32x32 are 32, 16 and 8 before each pooling.

    Args:
        n_classes: number of logits.
        input_shape: (channels, height, width); `fc1` adapts to it.

    Raises ShapeError when an image is smaller than 8x8.
    """
    require_size(input_shape, 8, "simple_cnn")
    channels, height, width = input_shape
    return nn.Sequential(
        OrderedDict(
            conv1=conv_relu(channels, 32, 5),
            pool1=nn.MaxPool2d(2),
            conv2=conv_relu(32, 32, 5),
            pool2=nn.MaxPool2d(2),
            conv3=conv_relu(32, 64, 5),
            pool3=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=linear_relu(64 * (height // 8) * (width // 8), 64),
            fc2=nn.Linear(64, n_classes),
        )
    )
