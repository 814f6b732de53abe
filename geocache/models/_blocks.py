"""Blocks that end in their nonlinearity, so that a tap of the block reads what the papers read."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from geocache.errors import ShapeError

__all__ = ["conv_relu", "linear_relu", "require_size"]


def conv_relu(n_in: int, n_out: int, size: int) -> nn.Sequential:
    """Build a `size` x `size` convolution that keeps the grid (`size` is odd), and its ReLU."""
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(n_in, n_out, size, padding=size // 2), relu=nn.ReLU(inplace=True)
        )
    )


def linear_relu(n_in: int, n_out: int) -> nn.Sequential:
    """Build a fully connected layer and its ReLU."""
    return nn.Sequential(OrderedDict(linear=nn.Linear(n_in, n_out), relu=nn.ReLU(inplace=True)))


def require_size(input_shape: tuple[int, int, int], minimum: int, model: str) -> None:
    """Raise ShapeError when an image has fewer than `minimum` rows or columns."""
    _, height, width = input_shape
    if min(height, width) < minimum:
        raise ShapeError(
            f"images must be at least {minimum}x{minimum} pixels for {model}, "
            f"got {height}x{width}. Resize them or take another model."
        )
