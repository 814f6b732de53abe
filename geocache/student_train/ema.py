"""An exponential moving average of the weights, often better than the weights it averages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["WeightAverage", "weights_of"]


class WeightAverage:
    """The moving average of a model's state: `a <- d a + (1 - d) w` after each optimiser step.

    Step n (from 1) has `d = min(decay, (1 + n) / (10 + n))`, so that a short training does not end
    with its initial weights (TensorFlow's `ExponentialMovingAverage` with `num_updates`). Batch
    norm's statistics are averaged as the weights are; integers (its counter) are copied. O(weights)
    a step, and once their memory.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._live = model.state_dict()
        self.values = {name: value.detach().clone() for name, value in self._live.items()}

    @torch.no_grad()
    def update(self, n: int) -> None:
        """Take in the weights after optimiser step `n`, counted from 1."""
        decay = min(self._decay, (1 + n) / (10 + n))
        floating = [name for name, value in self._live.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.values[name] for name in floating],
            [self._live[name] for name in floating],
            1 - decay,
        )
        for name, value in self._live.items():
            if not value.is_floating_point():
                self.values[name].copy_(value)

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Go on from an average that was saved."""
        for name, value in values.items():
            self.values[name].copy_(value)


@contextmanager
def weights_of(model: nn.Module, values: Mapping[str, Tensor] | None) -> Iterator[nn.Module]:
    """Give `model` other weights for a while; None leaves its own."""
    if values is None:
        yield model
        return
    own = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(values)
    try:
        yield model
    finally:
        model.load_state_dict(own)
