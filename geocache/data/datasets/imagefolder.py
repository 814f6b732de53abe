"""Image files in one folder a class, as torchvision's ImageFolder reads them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import UInt8

from geocache.data.dataset import ImageDataset
from geocache.data.digests import file_digests
from geocache.data.images import decode_file
from geocache.errors import ConfigError, DataError, MissingDataError

__all__ = ["ImageFolder", "load"]

SPLIT_NAMES = frozenset({"train", "test", "val", "valid", "validation"})


class ImageFolder(ImageDataset):
    """Image files below `folder`/CLASS, classes and files in sorted order.

    The digest of a sample is that of its file's bytes. Names beginning with a dot are passed over.
    Memory and pickles hold the file names, not the images.
    """

    travels_by_source: ClassVar[bool] = False

    def __init__(self, folder: Path, *, split: str) -> None:
        """List the images below `folder`.

        Raises MissingDataError if there is no folder, no class or a class without images.
        """
        from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

        self.name = "imagefolder"
        self.split = split
        self.folder = str(folder.absolute())
        self.classes = _class_folders(folder)
        numbers = {name: number for number, name in enumerate(self.classes)}
        found = make_dataset(self.folder, numbers, extensions=IMG_EXTENSIONS, allow_empty=True)
        skip = len(self.folder.rstrip(os.sep)) + 1
        files = [(path[skip:].replace(os.sep, "/"), number) for path, number in found]
        files = [(name, number) for name, number in files if "/." not in name]
        self.files = [name for name, _ in files]
        self.labels = np.array([number for _, number in files], np.int64)
        counts = np.bincount(self.labels, minlength=len(self.classes))
        empty = [name for name, count in zip(self.classes, counts, strict=True) if count == 0]
        if empty:
            shown = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
            raise MissingDataError(
                f"each class folder in {folder} must hold images ({' '.join(IMG_EXTENSIONS)}), "
                f"got none in {len(empty)} of {len(self.classes)}: {shown}. "
                "Fill them or take them away."
            )

    def read(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        """Return image `index` as RGB."""
        return decode_file(self.where(index))

    def where(self, index: int) -> str:
        """Return the path of file `index`."""
        return f"{self.folder}/{self.files[index]}"

    def _compute_digests(self, progress: Callable[[int], None] | None) -> UInt8[np.ndarray, "n 32"]:
        return file_digests(self.folder, self.files, progress=progress)


def load(*, root: Path | None, split: str, directory: str | None = None) -> ImageFolder:
    """Return the images of one split.

    Args:
        root: a folder that holds one folder a split.
        split: the name of the split's folder in `root`.
        directory: instead of `root`: the folder of the one split there is, which is `train`.

    Raises ConfigError where neither or another split is given, MissingDataError where folders or
    images are missing, DataError where splits stand in the place of classes.
    """
    if directory is not None:
        if split != "train":
            raise ConfigError(
                f"split of imagefolder:{directory} must be 'train', the only one, got '{split}'. "
                'Give the folder above the splits as root, with dataset = "imagefolder".'
            )
        folder = Path(directory)
        if folder.is_dir():
            _refuse_splits(folder)
        return ImageFolder(folder, split=split)
    if root is None:
        raise ConfigError(
            "imagefolder must have a folder, got none. Write imagefolder:DIR (class folders "
            'inside), or root = "DIR" in [data] (train/ and test/ inside).'
        )
    if root.is_dir() and not (root / split).is_dir():
        inside = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
        raise MissingDataError(
            f"{root} must hold a folder '{split}' with class folders inside, got "
            f"{', '.join(inside[:5]) or 'no folder'}. Name the split's folder so, or write "
            f"imagefolder:{root} if its folders are the classes."
        )
    return ImageFolder(root / split, split=split)


def _class_folders(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise MissingDataError(
            f"{folder} must be a folder with one folder of images a class, but there is "
            f"{'a file' if folder.exists() else 'nothing'}. Check the path."
        )
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    classes = tuple(sorted(entry.name for entry in entries if entry.is_dir()))
    if not classes:
        raise MissingDataError(
            f"{folder} must hold one folder of images a class, got {len(entries)} files and no "
            "folder. Put the images of each class into a folder of its name."
        )
    return classes


def _refuse_splits(folder: Path) -> None:
    """Raise DataError if the folders in `folder` are splits: they would be taken for classes."""
    names = {entry.name for entry in folder.iterdir() if entry.is_dir()}
    if len(names) > 1 and {name.lower() for name in names} <= SPLIT_NAMES:
        raise DataError(
            f"imagefolder:{folder} must name one split, got the folder above "
            f"{', '.join(sorted(names))}. Write imagefolder:{folder / sorted(names)[0]}, or give "
            f'{folder} as root with dataset = "imagefolder".'
        )
