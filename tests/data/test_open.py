"""Data sets are found by name, and the user's own by module:callable."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from geocache.data.datasets import dataset_names, open_dataset
from geocache.errors import ConfigError, DataError, UnknownNameError

MODULE = """
import numpy as np, torch
from PIL import Image
from geocache.data.dataset import ArrayDataset

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)

class Items:
    def __init__(self, change, n=5):
        self.change, self.n = change, n
    def __len__(self):
        return self.n
    def __getitem__(self, index):
        return self.change(PIXELS[index]), [0, 1, None, 3, 1][index]

def pillow(): return Items(Image.fromarray)
def array(root=None, split="train", n=5): return Items(lambda a: a, n)
def tensor(**keywords): return Items(lambda a: torch.from_numpy(a).permute(2, 0, 1))
def grey(): return Items(lambda a: a[:, :, 0])
def grey_tensor(): return Items(lambda a: torch.from_numpy(a[:, :, :1]).permute(2, 0, 1))
def own(split):
    return ArrayDataset(PIXELS, np.arange(5), list("abcde"), name="own", split=split)
def empty(): return Items(Image.fromarray, 0)
def normalised(): return Items(lambda a: torch.from_numpy(a).permute(2, 0, 1) / 255)
RNG = np.random.default_rng()
def random(): return Items(lambda a: RNG.permutation(a.ravel()).reshape(a.shape))
def generator(): return (x for x in [])
def breaks():
    def change(a):
        if (a == PIXELS[3]).all(): raise RuntimeError("no such thing")
        return a
    return Items(change)
class Named(Items):
    classes = ["cat", "dog"]
def too_few_classes(): return Named(lambda a: a)
number = 3
"""


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stand in a project folder that holds the module `mine`."""
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    yield
    sys.modules.pop("mine", None)


def test_names() -> None:
    assert set(dataset_names()) >= {
        "cifar10", "cifar100", "digits", "fakedata", "imagefolder", "stl10", "svhn"
    }  # fmt: skip


def test_pixels_are_the_same_whatever_carries_them() -> None:
    reference = open_dataset("mine:own")
    for name in ("pillow", "array", "tensor"):
        dataset = open_dataset(f"mine:{name}")
        np.testing.assert_array_equal(dataset.read(2), reference.read(2))
        np.testing.assert_array_equal(dataset.digests(), reference.digests())
        assert dataset.labels.tolist() == [0, 1, -1, 3, 1]
        assert dataset.classes == ("0", "1", "2", "3")
        assert dataset.where(2) == f"mine:{name}/train[2]"


def test_grey_items() -> None:
    one, two = open_dataset("mine:grey"), open_dataset("mine:grey_tensor")
    assert one.read(0).shape == (4, 6, 3)
    np.testing.assert_array_equal(one.digests(), two.digests())


def test_keywords_reach_the_callable() -> None:
    assert len(open_dataset("mine:array", options={"n": 3})) == 3
    assert open_dataset("mine:own", split="test").split == "test"
    with pytest.raises(ConfigError, match=r"accept the keyword 'split'.* given as 'test'"):
        open_dataset("mine:pillow", split="test")
    with pytest.raises(ConfigError, match="accept the keyword 'm'"):
        open_dataset("mine:array", options={"m": 3})


def test_pickle_opens_it_again() -> None:
    dataset = open_dataset("mine:array", options={"n": 3})
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(pickle.dumps(dataset)) < 500
    np.testing.assert_array_equal(copy.digests(), dataset.digests())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", "must hold at least one image"),
        ("normalised", r"normalised/train\[0\] must be .*uint8, got float32"),
        ("random", r"random/train\[0\] must be the same image each time"),
        ("generator", "must return an ImageDataset or .* got generator"),
    ],
)
def test_what_the_callable_must_not_return(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(f"mine:{name}")


def test_errors_of_single_items() -> None:
    with pytest.raises(DataError, match=r"breaks/train\[3\] .* RuntimeError: no such thing"):
        open_dataset("mine:breaks").digests()
    with pytest.raises(DataError, match=r"labels must lie in -1 .. 1, got -1 .. 3"):
        _ = open_dataset("mine:too_few_classes").labels


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cifar1", "must be one of cifar10, .*Did you mean 'cifar10'"),
        ("mine", "must be one of cifar10"),
        ("yours:own", "'yours' was not found"),
        ("mine:nothing", "must name something that module 'mine' defines"),
    ],
)
def test_unknown_names(spec: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        open_dataset(spec)


def test_odd_specs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be callable, got int"):
        open_dataset("mine:number")
    with pytest.raises(ConfigError, match="must be given once"):
        open_dataset(f"cifar10:{tmp_path}", root=tmp_path)
