"""Random images from torchvision's FakeData: for trying things out, not for learning anything."""

from __future__ import annotations

from pathlib import Path

from geocache.data.datasets._map_style import MapDataset
from geocache.data.datasets._torchvision import check_split
from geocache.errors import ConfigError

__all__ = ["load"]


def load(
    *,
    root: Path | None = None,
    split: str,
    n: int = 1000,
    size: int = 32,
    classes: int = 10,
    seed: int = 0,
) -> MapDataset:
    """Return `n` random RGB images of `size` x `size` pixels; no file is read.

    The same options give the same images. Splits and seeds share none: sample i is drawn from
    the generator's seed 2^32 (2 `seed` + [split is test]) + i.

    Raises ConfigError for a split other than `train` and `test` and for options out of range.
    """
    from torchvision.datasets import FakeData

    check_split("fakedata", split, ("train", "test"))
    for option, value, low in (("n", n, 1), ("size", size, 1), ("classes", classes, 1)):
        if not isinstance(value, int) or value < low:
            raise ConfigError(f"{option} of fakedata must be a number from {low}, got {value!r}.")
    if not isinstance(seed, int) or not 0 <= seed < 2**30:
        raise ConfigError(f"seed of fakedata must lie in 0 .. 2^30 - 1, got {seed!r}.")
    items = FakeData(
        size=n,
        image_size=(3, size, size),
        num_classes=classes,
        random_offset=(2 * seed + (split == "test")) << 32,
    )
    names = [str(number) for number in range(classes)]
    return MapDataset(items, name="fakedata", split=split, classes=names)
