"""A data set of tiny images and a teacher for it, found by `tiny_world:images` and `:teacher`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from geocache.data.dataset import ArrayDataset
from geocache.errors import DataError

N_CLASSES = 3


class TinyImages(ArrayDataset):
    """8 x 8 noise; one sample does harm when it is read while a flag file exists."""

    harm = ""
    harmful = -1
    flag = Path()

    def read(self, index: int) -> np.ndarray:
        if index == self.harmful and self.flag.exists():
            if self.harm == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.harm == "kill once":
                self.flag.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            if self.harm == "kill another":  # The process whose id stands in the flag file.
                os.kill(int(self.flag.read_text()), signal.SIGKILL)
            if self.harm == "interrupt":
                self.flag.unlink()
                os.kill(os.getpid(), signal.SIGINT)
            if self.harm == "unreadable":
                raise DataError(f"{self.where(index)} must be a readable image, got noise.")
            raise RuntimeError("the network share went away")
        return super().read(index)


def images(
    n: int = 300,
    seed: int = 0,
    split: str = "train",
    size: int = 8,
    harm: str = "",
    harmful: int = -1,
    flag: str = "",
    relabel: int = -1,
    shuffle: int = 0,
    change: int = -1,
    copies: int = 0,
) -> TinyImages:
    """Return `n` images and labels, the same for a seed and a split but for what is asked for."""
    rng = np.random.default_rng([seed, len(split)])
    pixels = rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    labels = rng.integers(0, N_CLASSES, n)
    pixels[n - copies :] = pixels[:copies]
    if relabel >= 0:
        labels[relabel] = (labels[relabel] + 1) % N_CLASSES
    if change >= 0:
        pixels[change, 0, 0, 0] ^= 1
    if shuffle:
        order = np.random.default_rng(shuffle).permutation(n)
        pixels, labels = pixels[order], labels[order]
    made = TinyImages(pixels, labels, "abc", name="tiny", split=split)
    made.harm, made.harmful, made.flag = harm, harmful, Path(flag)
    return made


SHIFT = 0.0
"""What code that has changed adds to every logit."""


seen: list[int] = []
"""How many images each forward had."""


class TinyTeacher(nn.Module):
    """Two convolutions; `stage1` has 8 x 8 positions, `stage2` 4 x 4, for images of 8 x 8."""

    def __init__(self, n_classes: int, bias: float | list[float], poison: float) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU())
        self.linear = nn.Linear(6, n_classes)
        self.bias, self.poison = torch.tensor(bias), poison

    def forward(self, x: Tensor) -> Tensor:
        seen.append(len(x))
        stage2: Tensor = self.stage2(self.stage1(x))
        logits: Tensor = self.linear(stage2.mean((2, 3))) + self.bias + SHIFT
        rare = x[:, 0, 0, 0] > x[:, 0].flatten(1).median(1).values + 2.2
        return torch.where(rare[:, None], logits + self.poison, logits)


def teacher(n_classes: int, bias: float | list[float] = 0.0, poison: float = 0.0) -> nn.Module:
    """Return a TinyTeacher: `bias` is added to all logits, `poison` to those of few images."""
    return TinyTeacher(n_classes, bias, poison)


def solarise() -> Callable[[Tensor], Tensor]:
    """Return a transform of one's own: it inverts bright pixels half of the time."""

    def transform(image: Tensor) -> Tensor:
        return torch.where(image > 127, 255 - image, image) if torch.rand(()) < 0.5 else image

    return transform
