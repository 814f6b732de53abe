"""Teachers of a user's that cannot be cached, found by `users_teachers:NAME`."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class _Small(nn.Module):
    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.linear = nn.Linear(4, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.features(x).mean((2, 3)))
        return logits

    def features(self, x: Tensor) -> Tensor:
        found: Tensor = self.stage(x)
        return found


class Sound(_Small):
    """A teacher as it should be."""


class KeepsTraining(_Small):
    """Its `train` forgets what is inside, as where it is overridden to freeze a part."""

    def train(self, mode: bool = True) -> KeepsTraining:
        self.training = mode
        return self


class BatchStatistics(_Small):
    """Normalises by the batch, whatever its mode."""

    def features(self, x: Tensor) -> Tensor:
        found: Tensor = self.stage(x)
        return found - found.mean(0, keepdim=True)


class ForcedDropout(_Small):
    """Monte-Carlo dropout: on in evaluation, too."""

    def features(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().features(x), 0.5, training=True)


class Ranks(_Small):
    """Shifts images by where they stand in the batch."""

    def features(self, x: Tensor) -> Tensor:
        found: Tensor = self.stage(x)
        return found + torch.arange(len(x)).view(-1, 1, 1, 1)
