"""The order of an imported array's rows is shown, or the import is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from worlds import images, knowing, opened, parse

from geocache.data.cache import Cache
from geocache.errors import ConfigError, DataError
from geocache.pipeline.build import BuildReport
from geocache.pipeline.imports import ImportReport

Make = Callable[..., BuildReport]
Import = Callable[..., ImportReport]


def test_any_order_with_ids_gives_the_same_cache(imported: Import) -> None:
    data = images(copies=5)
    rng = np.random.default_rng(0)
    given = rng.normal(size=(300, 4, 3, 3)).astype(np.float16)
    straight = imported(given, "mst@a", dataset=data, labels=data.labels, ids=data.digests())
    order = rng.permutation(300)
    shuffled = imported(given[order], "mst@a", dataset=data, ids=data.digests()[order])
    assert (shuffled.key, shuffled.sha256) == (straight.key, straight.sha256)
    assert (shuffled.imported, shuffled.order, shuffled.checked) == ((), "ids", "ids")


def test_the_same_array_for_shuffled_data_gives_the_same_cache(imported: Import) -> None:
    data, moved = images(copies=40), images(copies=40, shuffle=3)
    rank = {digest.tobytes(): i for i, digest in enumerate(data.digests())}
    given = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    given[260:] = given[:40]
    first = imported(given, "logits", dataset=data, unchecked=True)
    there = np.array([rank[digest.tobytes()] for digest in moved.digests()])
    again = imported(given[there], "logits", dataset=moved, unchecked=True)
    assert again.key == first.key and again.imported == ()
    rows = Cache(first.path)
    assert np.array_equal(
        rows.read("logits", 0, 300)[0], given[there][rows.dataset_index[0]].astype(np.float16)
    )
    changed = given.copy()
    changed[7, 0] += 1
    assert imported(changed, "logits", dataset=data, unchecked=True).key != first.key


def test_copies_with_other_labels_keep_their_own_numbers(imported: Import) -> None:
    data = images(copies=40)
    given = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float16)
    report = imported(given, "logits", dataset=data, labels=data.labels)
    cache = Cache(report.path)
    copies = {digest.tobytes() for digest in data.digests()[:40]}
    differ = 0
    for row, stored in enumerate(cache.read("logits", 0, 300)):
        if cache.sample_id[row].tobytes() not in copies:
            continue
        (own,) = np.flatnonzero((given == stored).all(axis=1))
        assert data.labels[own] == cache.labels[row]
        differ += own != cache.dataset_index[row]
    # Of copies with one label, some changed places to stand in the order of their content.
    assert 0 < differ < 40


def test_rows_may_be_the_caches_own(make: Make, imported: Import) -> None:
    cache = opened(make(targets=parse("pooled@stage2")))
    given = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float16)
    report = imported(given, "activation@head", cache=cache.path, order="rows", labels=cache.labels)
    assert np.array_equal(Cache(cache.path).read("head/activation", 0, 300), given)
    assert report.order == "rows"
    with pytest.raises(DataError, match=r"in the order 'dataset'.*sample \d+.*disagree"):
        imported(given, "activation@tail", cache=cache.path, labels=cache.labels)


def test_the_first_label_that_disagrees_is_named(imported: Import) -> None:
    labels = images().labels.copy()
    labels[[17, 40]] = (labels[[17, 40]] + 1) % 3
    given = np.zeros((300, 2, 2, 2), np.float32)
    truth = images().labels[17]
    with pytest.raises(
        DataError, match=rf"got {labels[17]} in row 17 for sample 17, whose label is {truth}; 2 of"
    ):
        imported(given, "activation@a", labels=labels)


def test_logits_must_name_the_labels(imported: Import, tmp_path: Path) -> None:
    given = knowing(images().labels)
    report = imported(given, "logits")
    assert report.checked == "agreement"
    assert report.agreement == np.mean(given.argmax(1) == images().labels)
    wrong = given[np.random.default_rng(0).permutation(300)]
    with pytest.raises(DataError, match=r"got \d\d\.\d % of 300 .*order is probably wrong"):
        imported(wrong, "logits", store=tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    assert imported(wrong, "logits", unchecked=True).checked == "no"


def test_an_order_that_nothing_shows_is_refused(imported: Import) -> None:
    given = np.zeros((300, 2, 2, 2), np.float32)
    with pytest.raises(ConfigError, match=r"--ids or --labels.*--unchecked"):
        imported(given, "activation@a")
    other_classes = np.zeros((300, 7), np.float32)
    with pytest.raises(ConfigError, match="logits of the data set's classes"):
        imported(other_classes, "logits")
    # Labels of one class agree in every order.
    data = images()
    data.labels[:] = 1
    with pytest.raises(ConfigError, match="two classes"):
        imported(given, "activation@a", dataset=data, labels=data.labels)


@pytest.mark.parametrize("n", [299, 301])
def test_the_count_must_be_the_caches(make: Make, imported: Import, n: int) -> None:
    cache = opened(make(targets=parse("logits")))
    given = np.zeros((n, 3), np.float32)
    with pytest.raises(DataError, match=rf"the 300 rows of cache {cache.key[:12]}, got {n}"):
        imported(given, "logits", cache=cache.path, unchecked=True)
    ids = np.resize(images().digests(), (n, 32))
    missing, strange = (1, 0) if n == 299 else (0, 1)
    with pytest.raises(DataError, match=rf"{strange} belong to none, while {missing} rows are"):
        imported(given, "logits", cache=cache.path, ids=ids)
