"""scikit-learn's digits: 1,797 grey images of 8 x 8 pixels, shipped with the library, no download.

The split is fixed and contiguous: the first 1,437 train, the last 360 test. Neighbours come from
the same writers (Alpaydin and Kaynak 1998), so an interleaved split would test on known hands.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from geocache.data.dataset import ArrayDataset
from geocache.data.datasets._torchvision import check_split

__all__ = ["load"]

N_TRAIN = 1437
WHITE = 16.0


def load(*, root: Path | None = None, split: str) -> ArrayDataset:
    """Return the `train` (1,437) or `test` (360) images; `root` is not looked at.

    Grey values 0 .. 16 become 0 .. 255, rounded. Raises ConfigError for another split.
    """
    from sklearn.datasets import load_digits

    check_split("digits", split, ("train", "test"))
    data = load_digits()
    rows = slice(0, N_TRAIN) if split == "train" else slice(N_TRAIN, None)
    grey = np.rint(data.images[rows] * (255.0 / WHITE)).astype(np.uint8)
    classes = [str(digit) for digit in range(10)]
    return ArrayDataset(grey[..., None], data.target[rows], classes, name="digits", split=split)
