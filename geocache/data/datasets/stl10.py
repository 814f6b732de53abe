"""STL-10 (Coates et al. 2011): 96 x 96 pixels, 10 classes, and 100,000 images without a label."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from geocache.data.dataset import ArrayDataset
from geocache.data.datasets._torchvision import check_split, data_root, load_verified

__all__ = ["load"]

CLASSES = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]


def load(*, root: Path | None, split: str) -> ArrayDataset:
    """Return the images of a split, -1 being the label of those that have none.

    `split` is `train` (5,000), `test` (8,000), `unlabeled` (100,000, 2.8 GB of memory) or
    `train+unlabeled`. `root` holds `stl10_binary`.

    Raises ConfigError for another split, MissingDataError where files are missing and DataError
    where they are damaged.
    """
    from torchvision.datasets import STL10

    check_split("stl10", split, STL10.splits)
    files = [f"{STL10.base_folder}/{entry[0]}" for entry in STL10.train_list + STL10.test_list]
    data = load_verified(STL10, data_root(root, STL10.base_folder), files, split=split)
    images = data.data.transpose(0, 2, 3, 1)
    labels = np.asarray(data.labels, np.int64)
    return ArrayDataset(images, labels, CLASSES, name="stl10", split=split)
