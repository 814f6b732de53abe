"""An import gives what a build gives, in an order that is shown, and never half."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from worlds import contents, images, opened, parse

import geocache
from geocache.data.cache import Cache
from geocache.errors import (
    CacheError,
    ConfigError,
    DataError,
    NumericError,
    ShapeError,
)
from geocache.pipeline.build import BuildReport
from geocache.pipeline.imports import ImportReport, ImportRequest, import_targets
from geocache.pipeline.teacher import Teacher, TeacherSpec

Make = Callable[..., BuildReport]
Import = Callable[..., ImportReport]

ON_STAGE1 = (
    "activation:dtype=float32@stage1",
    "mst@stage1",
    "affinity:radius=2,5@stage1",
    "attention@stage1",
    "pooled@stage1",
    "knn:k=3@stage1",
)
SPEC = TeacherSpec(
    "tiny_world:teacher", None, 3, (3, 8, 8), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
)


def tapped(cache: Cache) -> dict[str, np.ndarray[Any, Any]]:
    """Run the teacher in the batches of a build; return what it says in the data set's order."""
    torch.set_num_threads(1)
    pixels = cache.read("images", 0, cache.n_rows)
    found: dict[str, np.ndarray[Any, Any]] = {}
    with Teacher(SPEC).tap(("stage1",)) as teacher:
        for start in range(0, cache.n_rows, 64):
            batch = pixels[start : start + 64]
            padded = np.concatenate([batch, np.repeat(batch[-1:], 64 - len(batch), axis=0)])
            for layer, tensor in teacher.run(padded).items():
                rows = tensor[: len(batch)].numpy()
                whole = found.setdefault(
                    layer, np.empty((cache.n_rows, *rows.shape[1:]), np.float32)
                )
                whole[cache.dataset_index[start : start + 64]] = rows
    return found


def knowing(labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Logits that are right about two thirds of the time."""
    rng = np.random.default_rng(1)
    return (np.eye(3)[labels] + rng.normal(0, 0.6, (len(labels), 3))).astype(np.float32)


@pytest.fixture
def imported(tmp_path: Path) -> Import:
    """Import an array as targets; by default of a new cache over the tiny images."""

    def imported(
        array: np.ndarray[Any, Any], *targets: str, progress: Any = None, **changes: Any
    ) -> ImportReport:
        fields: dict[str, Any] = {"store": tmp_path / "imports", "name": "mine.npy", **changes}
        if "cache" not in fields:
            fields.setdefault("dataset", images())
        request = ImportRequest(array=array, targets=parse(*targets), **fields)
        return import_targets(request, progress)

    return imported


def test_imported_targets_are_those_of_a_build(make: Make, imported: Import) -> None:
    built = opened(make(targets=parse("logits", *ON_STAGE1)))
    given = tapped(built)
    labels = images().labels
    report = imported(given["stage1"], *ON_STAGE1, labels=labels)
    cache = Cache(report.path)
    assert (report.n_rows, report.checked, report.order) == (300, "labels", "dataset")
    assert set(report.imported) == {target.name for target in parse(*ON_STAGE1)}
    for name in report.imported:
        assert np.array_equal(cache.read(name, 0, 300), built.read(name, 0, 300)), name
        assert (report.path / "targets" / name / "zarr.json").exists()
    for name in ("labels", "dataset_index", "sample_id", "valid"):
        assert np.array_equal(getattr(cache, name), getattr(built, name))
    assert np.array_equal(cache.read("images", 0, 300), built.read("images", 0, 300))
    logits = Cache(imported(given[""], "logits", labels=labels).path)
    assert np.array_equal(logits.read("logits", 0, 300), built.read("logits", 0, 300))
    assert logits.about["identity"]["teacher"]["model"] == "imported:mine"


def test_targets_join_a_cache_that_stands(make: Make, imported: Import) -> None:
    whole = opened(make("whole", targets=parse("logits", "activation:dtype=float32@stage1")))
    given = tapped(whole)
    cache = opened(make(targets=parse("logits")))
    before = contents(cache.path)
    report = imported(
        given["stage1"], "activation:dtype=float32@stage1", cache=cache.path, labels=images().labels
    )
    assert report.key == cache.key == whole.key
    name = "stage1/activation.float32"
    assert np.array_equal(Cache(cache.path).read(name, 0, 300), whole.read(name, 0, 300))
    after = contents(cache.path)
    assert {file: after[file] for file in before} == before
    # The build finds nothing to do either.
    assert make(targets=parse("logits", "activation:dtype=float32@stage1")).n_units == 0


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


def test_what_makes_the_teacher_is_in_the_key(imported: Import) -> None:
    given = knowing(images().labels)
    keys = {
        imported(given, "logits", **changes).key
        for changes in ({}, {"teacher": "net"}, {"std": (1.0, 1.0, 1.0)})
    }
    assert len(keys) == 3
    assert imported(given.astype(">f4"), "logits", name="mine.npz").key in keys
    assert imported(given.astype(np.float64), "logits").key not in keys


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


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e300])
def test_what_is_not_finite_is_named_by_its_first_row(imported: Import, value: float) -> None:
    given = np.zeros((300, 3))
    given[[250, 31], 1] = value
    with pytest.raises(NumericError, match=r"row 31 \(mine.npy\)"):
        imported(given, "logits", unchecked=True)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((300, 3), np.int64), "int64"),
        (np.zeros((300, 3), np.complex64), "complex64"),
        (np.full((300, 3), None), "Python objects"),
        (np.zeros(300, np.float32), r"\(300,\)"),
        (np.zeros((300, 0), np.float32), r"\(300, 0\)"),
    ],
)
def test_other_arrays_are_refused(imported: Import, array: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        imported(array, "logits", unchecked=True)


def test_requests_that_cannot_be_meant_are_refused(make: Make, imported: Import) -> None:
    given = np.zeros((300, 4, 2, 2), np.float32)
    with pytest.raises(ConfigError, match="one layer"):
        imported(given, "mst@a", "mst@b", unchecked=True)
    with pytest.raises(ConfigError, match=r"a cache or a data set, got both"):
        imported(given, "mst@a", cache="abcd", dataset=images())
    with pytest.raises(ShapeError, match="logits"):
        imported(given, "logits", unchecked=True)
    with pytest.raises(DataError, match=r"labels must be whole numbers \(300,\)"):
        imported(given, "mst@a", labels=np.zeros(300))
    with pytest.raises(DataError, match=r"ids must be uint8 \(300, 32\)"):
        imported(given, "mst@a", ids=np.zeros((300, 16), np.uint8))
    cache = opened(make(targets=parse("mst@stage1")))
    with pytest.raises(ShapeError, match=r"shape \(4, 8, 8\) a row, as 'stage1/mst'.*\(4, 2, 2\)"):
        imported(given, "pooled@stage1", cache=cache.path, unchecked=True)


def test_an_interrupted_import_goes_on(imported: Import, tmp_path: Path) -> None:
    data = images(n=2500)
    given = np.random.default_rng(0).normal(size=(2500, 4, 3, 3)).astype(np.float32)
    targets = ("mst@a", "affinity:radius=2@a")

    def interrupt(phase: str, done: int, total: int) -> None:
        if phase == "importing" and done < total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        imported(given, *targets, dataset=data, labels=data.labels, progress=interrupt)
    (path,) = (tmp_path / "imports").iterdir()
    assert Cache(path).n_built("a/mst") == 2048
    assert not (path / "targets" / "a" / "mst" / "zarr.json").exists()
    kept = {
        file: file.stat().st_mtime_ns for file in (path / "targets").rglob("0") if file.is_file()
    }
    assert kept
    calls: list[tuple[str, int, int]] = []
    report = imported(
        given, *targets, dataset=data, labels=data.labels, progress=lambda *call: calls.append(call)
    )
    assert [call for call in calls if call[0] == "importing"] == [("importing", 452, 452)]
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    direct = imported(given, *targets, dataset=data, labels=data.labels, store=tmp_path / "direct")
    assert contents(report.path) == contents(direct.path)
    again = imported(given, *targets, dataset=data, labels=data.labels)
    assert (again.imported, again.n_bytes_written) == ((), 0)


def test_a_whole_target_stays_and_a_part_is_not_mixed(make: Make, imported: Import) -> None:
    cache = opened(make(targets=parse("logits")))
    before = contents(cache.path)
    given = knowing(images().labels)
    report = imported(given, "logits", cache=cache.path)
    assert (report.targets, report.imported) == (("logits",), ())
    assert contents(cache.path) == before
    part = opened(make("part", targets=parse("logits"), limit=70))
    with pytest.raises(CacheError, match="rows 0 to 69 from the teacher itself"):
        imported(given, "logits", cache=part.path)


def test_receipts_say_where_the_numbers_come_from(imported: Import) -> None:
    given = knowing(images().labels)
    report = imported(given, "logits", name="net.npy")
    (file,) = (report.path / "meta/receipts/logits").iterdir()
    receipt = json.loads(file.read_text())
    assert receipt["imported"] == {
        "file": "net.npy", "sha256": report.sha256, "order": "dataset", "checked": "agreement",
    }  # fmt: skip
    assert receipt["versions"]["numpy"] == np.__version__
    assert report.sha256 == Cache(report.path).identity["teacher"]["weights"]


def test_rows_without_an_image_hold_zeros(make: Make, imported: Import, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    data = images(harm="unreadable", harmful=5, flag=str(flag))
    given = np.ones((300, 2, 2, 2), np.float32)
    with pytest.raises(DataError, match="--skip-bad"):
        imported(given, "activation@a", dataset=data, labels=data.labels)
    report = imported(given, "activation@a", dataset=data, labels=data.labels, skip_bad=True)
    cache = Cache(report.path)
    stored = cache.read("a/activation", 0, 300)
    assert list(report.bad) == np.flatnonzero(~cache.valid).tolist() != []
    assert np.array_equal(stored.any(axis=(1, 2, 3)), cache.valid)


def test_a_student_trains_from_an_imported_cache(imported: Import, tmp_path: Path) -> None:
    given = knowing(images().labels)
    report = imported(given, "logits", evaluation=images(n=50, split="test"))
    recipe = geocache.parse_recipe(
        {
            "data": {"dataset": "imagefolder", "root": "nowhere"},
            "teacher": {"cache": report.key},
            "student": {"model": "simple_cnn"},
            "loss": [{"name": "cross_entropy"}, {"name": "distillation", "temperature": 2.0}],
            "train": {"epochs": 1, "device": "cpu"},
        }
    )
    trained = geocache.train(recipe, geocache.open(report.path), tmp_path / "run")
    assert trained.last_test_accuracy is not None
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert any("distillation" in line for line in lines)
