"""CIFAR-10 (Krizhevsky 2009): 60,000 colour images of 32 x 32 pixels, 10 classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from geocache.data.dataset import ArrayDataset
from geocache.data.datasets._torchvision import check_split, data_root, load_verified

__all__ = ["load"]


def load(*, root: Path | None, split: str) -> ArrayDataset:
    """Return the `train` (50,000) or `test` (10,000) images.

    `root` holds `cifar-10-batches-py`. Raises ConfigError for another split, MissingDataError where
    files are missing and DataError where they are damaged.
    """
    from torchvision.datasets import CIFAR10

    return load_cifar("cifar10", CIFAR10, root, split)


def load_cifar(name: str, make: type, root: Path | None, split: str) -> ArrayDataset:
    """Return a data set of the CIFAR family, which torchvision's class `make` reads."""
    check_split(name, split, ("train", "test"))
    base: str = make.base_folder  # type: ignore[attr-defined]
    names = [entry[0] for entry in make.train_list + make.test_list]  # type: ignore[attr-defined]
    names.append(make.meta["filename"])  # type: ignore[attr-defined]
    files = [f"{base}/{file}" for file in names]
    data = load_verified(make, data_root(root, base), files, train=split == "train")
    labels = np.asarray(data.targets, np.int64)
    return ArrayDataset(data.data, labels, data.classes, name=name, split=split)
