"""List the layers of a model that can be tapped, with the size of what they return."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod

from torch import nn

from geocache.models._trace import BATCH, trace

__all__ = ["LayerInfo", "list_layers"]


@dataclass(frozen=True)
class LayerInfo:
    """What one tap reads of one image.

    Attributes:
        path: the dotted path that `Taps` takes, with `#k` where the module is called k times.
        kind: the module's class.
        shape: (channels, height, width) of a map, (channels,) of a vector, (n, channels) of tokens.
        n: local features: height * width, 1, or tokens.
        channels: length of a local feature.
        row_bytes: bytes of the raw output of one image in float32.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    n: int
    channels: int
    row_bytes: int


def list_layers(model: nn.Module, input_shape: tuple[int, int, int]) -> list[LayerInfo]:
    """Return every layer that can be tapped, in call order, for images of `input_shape`.

    Left out is what is no feature of an image: outputs that are not one tensor with the batch
    first, and scalars. Costs one forward pass of two images.

    Raises ShapeError when the model cannot process such images.
    """
    _, calls = trace(model, input_shape)
    n_calls = Counter(call.path for call in calls)
    layers = []
    for call in calls:
        if call.shape is None or len(call.shape) not in (2, 3, 4) or call.shape[0] != BATCH:
            continue
        shape = call.shape[1:]
        n, channels = _features(shape)
        path = f"{call.path}#{call.number}" if n_calls[call.path] > 1 else call.path
        layers.append(LayerInfo(path, call.kind, shape, n, channels, 4 * prod(shape)))
    return layers


def _features(shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) == 3:
        return shape[1] * shape[2], shape[0]
    if len(shape) == 2:
        return shape[0], shape[1]
    return 1, shape[0]
