"""CIFAR-100 (Krizhevsky 2009): 60,000 colour images of 32 x 32 pixels, 100 (fine) classes."""

from __future__ import annotations

from pathlib import Path

from geocache.data.dataset import ArrayDataset
from geocache.data.datasets.cifar10 import load_cifar

__all__ = ["load"]


def load(*, root: Path | None, split: str) -> ArrayDataset:
    """Return the `train` (50,000) or `test` (10,000) images.

    `root` holds `cifar-100-python`. Raises ConfigError for another split, MissingDataError where
    files are missing and DataError where they are damaged.
    """
    from torchvision.datasets import CIFAR100

    return load_cifar("cifar100", CIFAR100, root, split)
