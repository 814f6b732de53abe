"""SVHN (Netzer et al. 2011): house numbers from street views, cropped to 32 x 32 pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from geocache.data.dataset import ArrayDataset
from geocache.data.datasets._torchvision import check_split, data_root, load_verified

__all__ = ["load"]


def load(*, root: Path | None, split: str) -> ArrayDataset:
    """Return the `train` (73,257), `test` (26,032) or `extra` (531,131) images.

    `root` holds `<split>_32x32.mat`. Raises ConfigError for another split, MissingDataError where
    the file is missing and DataError where it is damaged.
    """
    from torchvision.datasets import SVHN

    check_split("svhn", split, tuple(SVHN.split_list))
    data = load_verified(SVHN, data_root(root, ""), [SVHN.split_list[split][1]], split=split)
    images = data.data.transpose(0, 2, 3, 1)
    labels = np.atleast_1d(data.labels)
    classes = [str(digit) for digit in range(10)]
    return ArrayDataset(images, labels, classes, name="svhn", split=split)
