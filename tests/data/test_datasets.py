"""Every registered data set keeps the contract of ImageDataset, and each its own promises."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from geocache.data.dataset import ArrayDataset, ImageDataset
from geocache.data.datasets import dataset_names, open_dataset
from geocache.data.images import ImageSpec, read_rows
from geocache.errors import ConfigError, DataError, MissingDataError

every = pytest.mark.parametrize("name", dataset_names())


def opened(example, split: str) -> ImageDataset:
    return open_dataset(example.spec, root=example.root, split=split, options=example.options)


def contents(dataset: ImageDataset) -> Counter[bytes]:
    return Counter(row.tobytes() for row in dataset.digests())


def first_image(dataset: ImageDataset) -> np.ndarray:
    return dataset.read(0)


@every
def test_contract(name: str, examples) -> None:
    for split, expected in examples[name].splits.items():
        dataset = opened(examples[name], split)
        n = len(dataset)
        assert dataset.labels.dtype == np.int64
        assert dataset.labels.shape == (n,)
        assert dataset.labels.min() >= -1
        assert dataset.labels.max() < len(dataset.classes)
        assert dataset.digests().dtype == np.uint8
        assert dataset.digests().shape == (n, 32)
        assert len({dataset.where(index) for index in range(n)}) == n
        for index in range(min(n, 5)):
            image = dataset.read(index)
            assert image.dtype == np.uint8
            assert image.ndim == 3
            assert image.shape[2] == 3
        if expected is not None:
            images, labels = expected
            np.testing.assert_array_equal(dataset.labels, labels)
            assert n == len(images)
            for index in range(n):
                np.testing.assert_array_equal(dataset.read(index), images[index])


@every
def test_same_again(name: str, examples) -> None:
    for split in examples[name].splits:
        one, two = opened(examples[name], split), opened(examples[name], split)
        np.testing.assert_array_equal(one.digests(), two.digests())
        np.testing.assert_array_equal(one.labels, two.labels)
        np.testing.assert_array_equal(one.read(len(one) - 1), two.read(len(two) - 1))
        assert one.classes == two.classes


@every
def test_splits_share_no_image(name: str, examples) -> None:
    train = opened(examples[name], "train")
    test = opened(examples[name], "test")
    assert not contents(train) & contents(test)


@every
def test_read_does_not_lend_its_memory(name: str, examples) -> None:
    dataset = opened(examples[name], "train")
    before = dataset.read(0).copy()
    dataset.read(0)[:] = 7
    np.testing.assert_array_equal(dataset.read(0), before)


@every
def test_unknown_split_and_option(name: str, examples) -> None:
    example = examples[name]
    with pytest.raises((ConfigError, MissingDataError), match="tset"):
        open_dataset(example.spec, root=example.root, split="tset", options=example.options)
    with pytest.raises(ConfigError, match=f"options of data set '{name}'.* got 'sede'"):
        open_dataset(example.spec, root=example.root, options={"sede": 1})


@every
def test_pickle_is_small_and_reads_the_same(name: str, examples) -> None:
    dataset = opened(examples[name], "train")
    dataset.digests()
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 2000
    copy, again = pickle.loads(pickled), pickle.loads(pickled)
    np.testing.assert_array_equal(copy.read(1), dataset.read(1))
    np.testing.assert_array_equal(copy.digests(), dataset.digests())
    assert copy.where(1) == dataset.where(1)
    if dataset.travels_by_source:
        assert copy is again  # the tasks of one worker share the pixels


def test_datasets_travel_to_spawned_processes(examples) -> None:
    datasets = [opened(examples[name], "train") for name in ("digits", "fakedata", "imagefolder")]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.map(first_image, datasets)
    for dataset, image in zip(datasets, there, strict=True):
        np.testing.assert_array_equal(image, dataset.read(0))


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "stl10", "imagefolder"])
def test_missing_folder_says_where_what_and_how(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError) as caught:
        open_dataset(name, root=tmp_path / "nowhere")
    message = str(caught.value)
    assert str(tmp_path / "nowhere") in message
    assert "\n" not in message
    if name != "imagefolder":
        assert "download=True" in message
        assert f"{name}:DIR" in message


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "stl10"])
def test_absent_and_damaged_files(name: str, examples, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(examples[name].root, root)
    files = [path for path in root.rglob("*") if path.is_file()]
    victim = min(path for path in files if not path.name.startswith(("test", "extra")))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    with pytest.raises(DataError, match=r"got others in .*download=True"):
        open_dataset(name, root=root)
    victim.unlink()
    with pytest.raises(MissingDataError, match=f"{victim.name} is not there"):
        open_dataset(name, root=root)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10"])
def test_root_may_be_the_inner_folder(name: str, examples) -> None:
    root = examples[name].root
    inner = next(path for path in root.iterdir() if path.is_dir())
    np.testing.assert_array_equal(
        open_dataset(f"{name}:{inner}").digests(), open_dataset(name, root=root).digests()
    )


def test_digits_are_whole_and_scaled() -> None:
    train, test = open_dataset("digits"), open_dataset("digits", split="test")
    assert (len(train), len(test)) == (1437, 360)
    pixels = np.unique(np.stack([train.read(index) for index in range(100)]))
    # 0 .. 16 times 255 / 16: 16 grey levels apart by 15.94, the ends exact.
    np.testing.assert_array_equal(pixels, np.rint(np.arange(17) * 255 / 16))


def test_fakedata_options(examples) -> None:
    def fake(**options: int) -> ImageDataset:
        return open_dataset("fakedata", options={"n": 4, "size": 8, **options})

    assert fake(size=5).read(3).shape == (5, 5, 3)
    assert fake(classes=2).classes == ("0", "1")
    assert contents(fake(n=6)) > contents(fake())
    assert not contents(fake(seed=1)) & contents(fake())
    for options in ({"n": 0}, {"size": 2.5}, {"seed": -1}, {"n": 2**24 + 1}, {"seed": 128}):
        with pytest.raises(ConfigError, match=f"{next(iter(options))} of .*fakedata'? must"):
            fake(**options)


def test_fakedata_reads_the_same_with_many_threads() -> None:
    dataset = open_dataset("fakedata", options={"n": 32, "size": 8})
    serial, _ = read_rows(dataset, range(32), ImageSpec(), 1)
    parallel, _ = read_rows(dataset, range(32), ImageSpec(), 8)
    np.testing.assert_array_equal(serial, parallel)


def test_imagefolder_digest_is_of_the_files_bytes(examples) -> None:
    dataset = opened(examples["imagefolder"], "train")
    for index, digest in enumerate(dataset.digests()):
        data = Path(dataset.where(index)).read_bytes()
        assert digest.tobytes() == hashlib.sha256(data).digest()


def test_imagefolder_digests_ignore_path_name_order_and_label(examples, tmp_path: Path) -> None:
    root = examples["imagefolder"].root / "train"
    original = open_dataset(f"imagefolder:{root}")
    for index in range(len(original)):
        label = "zebra" if index == 0 else original.classes[original.labels[index]]
        target = tmp_path / "other" / label / f"{9 - index}{Path(original.where(index)).suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(original.where(index), target)
    moved = open_dataset(f"imagefolder:{tmp_path / 'other'}")
    assert contents(moved) == contents(original)
    assert moved.digests().tolist() != original.digests().tolist()  # the order did change
    with Path(moved.where(0)).open("ab") as file:
        file.write(b"!")
    changed = open_dataset(f"imagefolder:{tmp_path / 'other'}")
    assert (contents(changed) - contents(original)).total() == 1


def test_array_digests_cover_pixels_and_shape_only() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 4, 2, 3), dtype=np.uint8)
    classes = ("a", "b")

    def dataset(images: np.ndarray, label: int = 0) -> ArrayDataset:
        labels = np.full(len(images), label)
        return ArrayDataset(images, labels, classes, name="x", split="train")

    reference = dataset(images)
    assert contents(dataset(np.asfortranarray(images[::-1]), label=1)) == contents(reference)
    assert not contents(dataset(images.reshape(4, 2, 4, 3))) & contents(reference)
    changed = images.copy()
    changed[2, 1, 1, 1] ^= 1
    assert (contents(dataset(changed)) - contents(reference)).total() == 1


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), [0, 0]),
        (np.zeros((2, 3, 4, 4), np.uint8), [0, 0]),
        (np.zeros((2, 4, 4, 3), np.uint8), [0]),
        (np.zeros((2, 4, 4, 3), np.uint8), [0, 2]),
        (np.zeros((2, 4, 4, 3), np.uint8), [0, -2]),
        (np.zeros((2, 4, 4, 3), np.uint8), [0.0, 0.5]),
        (np.zeros((0, 4, 4, 3), np.uint8), []),
    ],
)
def test_array_dataset_refuses_parts_that_do_not_fit(images: np.ndarray, labels: list) -> None:
    with pytest.raises(DataError, match=r"\(x/train\)"):
        ArrayDataset(images, np.array(labels), ["a", "b"], name="x", split="train")


def test_imagefolder_structure_errors(tmp_path: Path, examples) -> None:
    with pytest.raises(MissingDataError, match="got 0 files and no folder"):
        open_dataset(f"imagefolder:{tmp_path}")
    (tmp_path / "cat").mkdir()
    (tmp_path / "dog").mkdir()
    source = examples["imagefolder"].root / "train" / "ant" / "1.png"
    shutil.copy(source, tmp_path / "cat" / "0.png")
    with pytest.raises(MissingDataError, match="got none in 1 of 2: dog"):
        open_dataset(f"imagefolder:{tmp_path}")
    with pytest.raises(MissingDataError, match="there is a file"):
        open_dataset(f"imagefolder:{tmp_path / 'cat' / '0.png'}")
    with pytest.raises(MissingDataError, match=r"must hold a folder 'train'.* got cat, dog"):
        open_dataset("imagefolder", root=tmp_path)
    with pytest.raises(DataError, match="must name one split, got the folder above test, train"):
        open_dataset(f"imagefolder:{examples['imagefolder'].root}")
    with pytest.raises(ConfigError, match="must be 'train', the only one, got 'test'"):
        open_dataset(f"imagefolder:{tmp_path}", split="test")
    with pytest.raises(ConfigError, match="must have a folder, got none"):
        open_dataset("imagefolder")


def test_imagefolder_relative_path_survives_a_change_of_folder(
    examples, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(examples["imagefolder"].root)
    dataset = open_dataset("imagefolder:train")
    monkeypatch.chdir(tmp_path)
    assert dataset.read(0).shape == (9, 7, 3)


@pytest.mark.real
@pytest.mark.skipif("GEOCACHE_REAL_DATA" not in os.environ, reason="GEOCACHE_REAL_DATA is not set")
def test_real_cifar10_jpeg() -> None:
    root = Path(os.environ["GEOCACHE_REAL_DATA"])
    for split, n in (("train", 50_000), ("test", 10_000)):
        dataset = open_dataset("imagefolder", root=root, split=split)
        assert np.bincount(dataset.labels).tolist() == [n // 10] * 10
        images, bad = read_rows(dataset, range(0, n, n // 100), ImageSpec(), 2)
        assert images.shape == (100, 32, 32, 3)
        assert not bad
        assert len(contents(dataset)) > 0.99 * n
