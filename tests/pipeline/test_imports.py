"""An import gives what a build gives, in an order that is shown, and never half."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from worlds import contents, images, knowing, opened, parse

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
from geocache.pipeline.derive import derive
from geocache.pipeline.imports import ImportReport
from geocache.pipeline.teacher import Teacher, TeacherSpec
from geocache.targets import LocalFeatures

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


def test_a_part_of_a_longer_neighbour_list_is_there_already(imported: Import) -> None:
    given = np.random.default_rng(0).normal(size=(300, 4, 3, 3)).astype(np.float32)
    assert imported(given, "knn:k=5@a", unchecked=True).imported == ("a/knn.k5",)
    assert imported(given, "knn:k=3@a", unchecked=True).imported == ()


def test_what_makes_the_teacher_is_in_the_key(imported: Import) -> None:
    given = knowing(images().labels)
    keys = {
        imported(given, "logits", **changes).key
        for changes in ({}, {"teacher": "net"}, {"std": (1.0, 1.0, 1.0)})
    }
    assert len(keys) == 3
    assert imported(given.astype(">f4"), "logits", name="mine.npz").key in keys
    assert imported(given.astype(np.float64), "logits").key not in keys
    square = np.zeros((300, 2, 2), np.float32)
    shas = {imported(one, "activation@a", unchecked=True).sha256
            for one in (square, square.reshape(300, 4), square.view(np.float16))}  # fmt: skip
    assert len(shas) == 3


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


def test_a_build_does_not_finish_an_import(make: Make, imported: Import) -> None:
    """Neither by the teacher nor from stored targets; the import itself does."""
    data, name = images(n=2500), "stage1/activation.float32"
    cache = opened(make(data={"n": 2500}, targets=parse("pooled@stage1")))
    given = np.random.default_rng(0).normal(size=(2500, 4, 8, 8)).astype(np.float32)
    wanted = ("activation:dtype=float32@stage1", "pooled@stage1", "attention@stage1")

    def interrupt(phase: str, done: int, total: int) -> None:
        if phase == "importing" and done < total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        imported(given, *wanted, cache=cache.path, labels=data.labels, progress=interrupt)
    assert Cache(cache.path).n_built(name) == 2048
    before = contents(cache.path)
    with pytest.raises(CacheError, match=rf"'{name}' must come from one source.*mine.npy.*import"):
        make(data={"n": 2500}, targets=parse(*wanted))
    assert contents(cache.path) == before
    report = make(data={"n": 2500}, targets=parse(*wanted), limit=2048)
    assert report.n_units == 0
    imported(given, wanted[0], cache=cache.path, labels=data.labels)
    with pytest.raises(CacheError, match=r"'stage1/attention' must come from one source"):
        derive(Cache(cache.path), parse("attention@stage1"))
    imported(given, *wanted, cache=cache.path, labels=data.labels)
    assert make(data={"n": 2500}, targets=parse(*wanted)).n_units == 0
    assert np.array_equal(Cache(cache.path).read(name, 0, 2500), given[cache.dataset_index])


def test_affinities_are_over_the_tree_that_is_stored(make: Make, imported: Import) -> None:
    cache = opened(make(targets=parse("mst@stage1")))
    other = np.random.default_rng(0).normal(size=(300, 4, 8, 8)).astype(np.float32)
    imported(other, "affinity:radius=2@stage1", cache=cache.path, unchecked=True)
    trees = torch.from_numpy(cache.read("stage1/mst", 0, 300).astype(np.int32))
    (wanted,) = parse("affinity:radius=2@stage1")
    features = torch.from_numpy(other[cache.dataset_index])
    expected = wanted.target.compute(LocalFeatures(features, "here", tree=trees))
    found = Cache(cache.path).read("stage1/affinity.r2", 0, 300)
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, wanted.target.compute(LocalFeatures(features, "here")))


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
