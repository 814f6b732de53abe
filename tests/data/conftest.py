"""Tiny copies of every data set, in the formats in which the real ones are published."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image


@dataclass(frozen=True)
class Example:
    """How to open a tiny data set, and what must come out: split -> (images, labels) or None."""

    spec: str
    root: Path | None
    splits: dict[str, tuple[np.ndarray, np.ndarray] | None]
    options: dict[str, Any] = field(default_factory=dict)


class OldNumpyPickler(pickle.Pickler):
    """Write dtypes as NumPy 1 on Python 2 did, with 0 and 1 for False and True."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.dtype):
            return np.dtype, (obj.str[1:], 0, 1), obj.__reduce__()[2]
        return NotImplemented


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_pickle(path: Path, value: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    OldNumpyPickler(stream, protocol=2).dump(value)
    path.write_bytes(stream.getvalue())
    return md5(path)


def write_cifar(patch: pytest.MonkeyPatch, root: Path, kind: type, labels_key: str) -> Example:
    """Write CIFAR batches of three images and publish their MD5 sums in torchvision's class."""
    n_classes = 10 if labels_key == "labels" else 100
    base = root / kind.base_folder  # type: ignore[attr-defined]
    splits = {}
    for split, table in (("train", "train_list"), ("test", "test_list")):
        sums, images, labels = [], [], []
        for number, (file, _) in enumerate(getattr(kind, table)):
            batch = noise(100 * n_classes + 10 * number + len(split), 3, 32, 32, 3)
            numbers = [(number + k) * 3 % n_classes for k in range(3)]
            flat = batch.transpose(0, 3, 1, 2).reshape(3, 3072)
            sums.append([file, write_pickle(base / file, {"data": flat, labels_key: numbers})])
            images.append(batch)
            labels += numbers
        patch.setattr(kind, table, sums)
        splits[split] = (np.concatenate(images), np.array(labels))
    meta = dict(kind.meta)  # type: ignore[attr-defined]
    names = [f"class{number}" for number in range(n_classes)]
    meta["md5"] = write_pickle(base / meta["filename"], {meta["key"]: names})
    patch.setattr(kind, "meta", meta)
    return Example(kind.__name__.lower(), root, splits)


def write_svhn(patch: pytest.MonkeyPatch, root: Path) -> Example:
    """Write MATLAB files; the digit 0 is published as label 10."""
    from torchvision.datasets import SVHN

    root.mkdir(parents=True)
    table, splits = {}, {}
    for seed, (split, (url, file, _)) in enumerate(SVHN.split_list.items()):
        n = seed + 2
        images, labels = noise(seed, n, 32, 32, 3), np.arange(n) * 4 % 10
        published = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        scipy.io.savemat(root / file, {"X": images.transpose(1, 2, 3, 0), "y": published})
        table[split] = [url, file, md5(root / file)]
        splits[split] = (images, labels)
    patch.setattr(SVHN, "split_list", table)
    return Example("svhn", root, splits)


def write_stl10(patch: pytest.MonkeyPatch, root: Path) -> Example:
    """Write STL's binary files: column-major planes, labels from 1."""
    from torchvision.datasets import STL10

    base = root / STL10.base_folder
    base.mkdir(parents=True)
    images = {name: noise(len(name), n, 96, 96, 3) for name, n in
              (("train", 3), ("test", 2), ("unlabeled", 4))}  # fmt: skip
    labels = {"train": np.array([0, 9, 4]), "test": np.array([2, 1])}
    for name, array in images.items():
        (base / f"{name}_X.bin").write_bytes(array.transpose(0, 3, 2, 1).tobytes())
    for name, array in labels.items():
        (base / f"{name}_y.bin").write_bytes((array + 1).astype(np.uint8).tobytes())
    for table in ("train_list", "test_list"):
        files = [entry[0] for entry in getattr(STL10, table)]
        patch.setattr(STL10, table, [[file, md5(base / file)] for file in files])
    none = np.full(4, -1)
    splits = {name: (images[name], labels[name]) for name in labels}
    splits["unlabeled"] = (images["unlabeled"], none)
    splits["train+unlabeled"] = (
        np.concatenate([images["train"], images["unlabeled"]]),
        np.concatenate([labels["train"], none]),
    )
    return Example("stl10", root, splits)


def write_imagefolder(root: Path) -> Example:
    """Write PNG files, some in a folder within a class, and things that are no images."""
    splits = {}
    for seed, split in enumerate(("train", "test")):
        images = noise(seed, 5, 9, 7, 3)
        names = ["ant/1.png", "ant/2.PNG", "ant/deep/0.png", "bee/0.bmp", "bee/1.png"]
        for name, image in zip(names, images, strict=True):
            path = root / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
        (root / split / "bee" / "notes.txt").write_text("not an image")
        (root / split / "bee" / "._1.png").write_bytes(b"left by a Mac")
        (root / split / ".cache").mkdir()
        splits[split] = (images, np.array([0, 0, 0, 1, 1]))
    return Example("imagefolder", root, splits)


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Example]]:
    """Every registered data set, tiny; a new one must be entered here."""
    from torchvision.datasets import CIFAR10, CIFAR100

    root = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        yield {
            "cifar10": write_cifar(patch, root / "c10", CIFAR10, "labels"),
            "cifar100": write_cifar(patch, root / "c100", CIFAR100, "fine_labels"),
            "digits": Example("digits", None, {"train": None, "test": None}),
            "fakedata": Example(
                "fakedata", None, {"train": None, "test": None}, {"n": 6, "size": 8, "classes": 3}
            ),
            "imagefolder": write_imagefolder(root / "folder"),
            "stl10": write_stl10(patch, root / "stl"),
            "svhn": write_svhn(patch, root / "svhn"),
        }


@pytest.fixture(autouse=True)
def own_cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep what is remembered out of the user's folder."""
    home = tmp_path / "home"
    monkeypatch.setenv("GEOCACHE_HOME", str(home))
    return home
