"""What a user would bring along: data sets and a student that break in interesting ways."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from geocache.data.dataset import ArrayDataset
from geocache.errors import DataError

BROKEN_AT: set[int] = set()
INTERRUPT_AT: set[int] = set()


class Fragile(ArrayDataset):
    """Random 8 x 8 images; reading some fails, reading others is where the user presses Ctrl-C."""

    def read(self, index: int) -> np.ndarray:
        if index in INTERRUPT_AT:
            raise KeyboardInterrupt
        if index in BROKEN_AT:
            raise DataError(f"picture {index} is torn")
        return super().read(index)


def fragile(*, n: int = 2060) -> Fragile:
    """Return one split of them; 2,060 images are one whole row group and a short one."""
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    return Fragile(images, rng.integers(0, 3, n), "abc", name="fragile", split="train")


class Stopping(nn.Module):
    """A student during whose fifth call in training mode the user presses Ctrl-C."""

    n_calls = 0

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(3, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            Stopping.n_calls += 1
            if Stopping.n_calls == INTERRUPTED_CALL:
                raise KeyboardInterrupt
        logits: Tensor = self.head(images.mean(dim=(2, 3)))
        return logits


INTERRUPTED_CALL = 5


def stopping(*, n_classes: int) -> Stopping:
    """Return the student."""
    return Stopping(n_classes)
