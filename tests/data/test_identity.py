"""The key changes with anything that could change a stored number, and with nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geocache.data.dataset import ArrayDataset, ImageDataset
from geocache.data.identity import (
    DataIdentity,
    TeacherIdentity,
    ViewIdentity,
    cache_key,
    data_digest,
    identity_document,
    row_order,
)
from geocache.data.images import ImageSpec
from geocache.errors import ConfigError

TEACHER = TeacherIdentity(
    model="resnet20", options={"shortcut": "pad"}, n_classes=10, weights="abc",
    mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2),
)  # fmt: skip


def digests(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 32), dtype=np.uint8)


def key(
    samples: np.ndarray, teacher: TeacherIdentity = TEACHER, image: ImageSpec | None = None
) -> str:
    data = DataIdentity(data_digest(samples), len(samples), (image or ImageSpec()).to_json())
    return cache_key(identity_document(teacher, data, ViewIdentity()))


@given(st.integers(0, 1000), st.integers(1, 40), st.randoms(use_true_random=False))
def test_order_does_not_count_and_repetition_does(seed: int, n: int, shuffler: Any) -> None:
    samples = digests(seed, n)
    order = list(range(n))
    shuffler.shuffle(order)
    assert data_digest(samples[order]) == data_digest(samples)
    assert data_digest(np.concatenate([samples, samples[:1]])) != data_digest(samples)
    assert data_digest(samples[1:]) != data_digest(samples)


@given(st.integers(0, 1000), st.integers(1, 40), st.integers(0, 39), st.integers(0, 255))
def test_one_changed_sample_changes_the_key(seed: int, n: int, which: int, bit: int) -> None:
    samples = digests(seed, n)
    changed = samples.copy()
    changed[which % n, bit // 8] ^= 1 << (bit % 8)
    assert key(changed) != key(samples)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "resnet32"},
        {"options": {"shortcut": "conv"}},
        {"n_classes": 100},
        {"weights": "abd"},
        {"mean": (0.5, 0.4, 0.30000001)},
        {"std": (0.2, 0.2, 0.21)},
        {"precision": "bfloat16"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_teacher_changes_the_key(change: dict[str, Any]) -> None:
    samples = digests(0, 5)
    assert key(samples, dataclasses.replace(TEACHER, **change)) != key(samples)


def test_every_field_of_the_teacher_is_in_the_document() -> None:
    data = DataIdentity("x", 1, {})
    document = identity_document(TEACHER, data, ViewIdentity())
    assert set(document["teacher"]) == {f.name for f in dataclasses.fields(TeacherIdentity)}
    assert set(document) == {"format", "teacher", "data", "views"}


def test_image_size_and_view_policy_change_the_key() -> None:
    samples = digests(0, 5)
    assert key(samples, image=ImageSpec((32, 32))) != key(samples)
    assert key(samples, image=ImageSpec((32, 32))) != key(samples, image=ImageSpec((32, 33)))
    data = DataIdentity(data_digest(samples), 5, ImageSpec().to_json())
    views = [ViewIdentity(), ViewIdentity("crop_flip"), ViewIdentity("crop_flip", {"pad": 4})]
    keys = {cache_key(identity_document(TEACHER, data, view)) for view in views}
    assert len(keys) == 3


def test_the_key_is_canonical() -> None:
    assert cache_key({"b": 1, "a": [1.5, "x"]}) == cache_key({"a": [1.5, "x"], "b": 1})
    text = '{"a":[1.5,"x"],"b":1}'
    assert cache_key({"b": 1, "a": [1.5, "x"]}) == hashlib.sha256(text.encode()).hexdigest()
    for value in (float("nan"), float("inf"), object()):
        with pytest.raises(ConfigError, match="must be finite numbers, texts"):
            cache_key({"options": {"x": value}})


def dataset(images: np.ndarray, labels: np.ndarray, name: str = "x") -> ImageDataset:
    return ArrayDataset(images, labels, [str(i) for i in range(10)], name=name, split="train")


@given(st.integers(0, 1000), st.integers(2, 30))
def test_rows_are_a_function_of_the_data(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    # Two grey levels a pixel and one pixel: many copies.
    images = rng.integers(0, 2, (n, 1, 1, 1), dtype=np.uint8)
    labels = rng.integers(0, 10, n)
    one = dataset(images, labels)
    shuffled = rng.permutation(n)
    other = dataset(images[shuffled], labels[shuffled], name="elsewhere")
    rows = []
    for data in (one, other):
        order = row_order(data.digests(), data.labels)
        assert sorted(order) == list(range(n))
        rows.append([(int(data.read(i)[0, 0, 0]), int(data.labels[i])) for i in order])
    assert rows[0] == rows[1]
    assert key(one.digests()) == key(other.digests())
    # Copies of one sample stand side by side, lower labels first.
    pixels = [pixel for pixel, _ in rows[0]]
    assert sum(a != b for a, b in itertools.pairwise(pixels)) == len(set(pixels)) - 1


def test_labels_and_subsets_do_not_move_other_rows() -> None:
    samples = digests(3, 50)
    labels = np.arange(50) % 10
    order = row_order(samples, labels)
    assert np.array_equal(row_order(samples, (labels + 3) % 10), order)
    kept = [i for i in order if i < 20]
    assert row_order(samples[:20], labels[:20]).tolist() == kept


def test_row_order_is_no_sort_by_class() -> None:
    # 500 samples of each of two classes, sorted by class: the first 100 rows hold both.
    labels = np.repeat([0, 1], 500)
    first = labels[row_order(digests(4, 1000), labels)][:100]
    # Binomial(100, 1/2): 30 to 70 but for one seed in 10,000.
    assert 30 <= int(first.sum()) <= 70
