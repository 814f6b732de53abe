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

    The same options give the same images. Splits and seeds share none: sample i is drawn with the
    generator's seed 2^24 (2 `seed` + [split is test]) + i, of which torch uses the low 32 bits.

    Raises ConfigError for a split other than `train` and `test` and for options out of range.
    """
    from torchvision.datasets import FakeData

    check_split("fakedata", split, ("train", "test"))
    bounds = {"n": (n, 1, 2**24), "size": (size, 1, 2**14), "classes": (classes, 1, 2**24)}
    for option, (value, low, high) in {**bounds, "seed": (seed, 0, 127)}.items():
        if not low <= value <= high:
            raise ConfigError(f"{option} of fakedata must lie in {low} .. {high}, got {value!r}.")
    items = FakeData(
        size=n,
        image_size=(3, size, size),
        num_classes=classes,
        random_offset=(2 * seed + (split == "test")) << 24,
    )
    names = [str(number) for number in range(classes)]
    return MapDataset(items, name="fakedata", split=split, classes=names)
