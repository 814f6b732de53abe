"""A damaged cache is put right, byte for byte, from what it still holds or from what it is of."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faults import Whole, build_whole, class_of, contents, flipped

import geocache
from geocache.data.cache import Cache
from geocache.data.dataset import ArrayDataset
from geocache.data.objects import LocalObjects
from geocache.data.writer import CacheWriter
from geocache.errors import CacheError, CheckpointError, DataError
from geocache.models import build_model
from geocache.pipeline.build import BuildRequest, build
from geocache.pipeline.derive import derive
from geocache.targets import parse_target

TREES = "targets/layer1/mst/c/0/0/0"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geocache.data.layout._GROUP_BYTES", 2**12)
        patch.setattr("geocache.data.layout._CHUNK_BYTES", 2**8)
        yield build_whole(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def whole(pristine: Whole, tmp_path: Path) -> Whole:
    """A cache to damage; its folder keeps its name."""
    path = tmp_path / pristine.path.name
    shutil.copytree(pristine.path, path)
    return dataclasses.replace(pristine, path=path)


def put(path: Path, key: str, data: bytes | None) -> None:
    (path / key).unlink()
    if data is not None:
        (path / key).write_bytes(data)


def datasets(whole: Whole) -> tuple[Any, ...]:
    return (whole.request.dataset, whole.request.evaluation)


def check_repairs(whole: Whole, every: int) -> None:
    """Damage each `every`-th object, one after the other, in four ways in turn."""
    keys = [*whole.objects]
    exchanged = dict(zip(keys, [*keys[1:], keys[0]], strict=True))
    for number, (key, data) in enumerate(whole.objects.items()):
        if number % every:
            continue
        ways = (
            flipped(data, 4 * len(data)), data[: len(data) // 2], None,
            whole.files[exchanged[key]],
        )  # fmt: skip
        put(whole.path, key, ways[number % 4])
        report = geocache.verify(
            whole.path, repair=True, datasets=datasets(whole), root=whole.request
        )
        if ways[number % 4] != data:
            assert key in {finding.key for finding in report.repaired}
        assert report.damage == ()
        assert contents(whole.path) == whole.files, key


def test_what_is_damaged_is_restored_byte_for_byte(whole: Whole) -> None:
    check_repairs(whole, 3)


@pytest.mark.slow
def test_whatever_is_damaged_is_restored_byte_for_byte(whole: Whole) -> None:
    check_repairs(whole, 1)


def test_a_cache_with_images_repairs_its_targets_without_a_data_set(whole: Whole) -> None:
    lost = [
        key
        for key in whole.objects
        if class_of(key).startswith(("rows of targets", "rows of logits"))
    ]
    for key in lost:
        put(whole.path, key, None)
    report = geocache.verify(whole.path, repair=True)
    assert {finding.key for finding in report.repaired} == set(lost)
    assert contents(whole.path) == whole.files


@pytest.mark.parametrize("name", ["labels", "dataset_index", "sample_id", "images", "valid"])
def test_rows_need_the_data_set(whole: Whole, name: str) -> None:
    key = next(key for key in whole.objects if key.startswith(f"{name}/c/"))
    put(whole.path, key, None)
    damaged = contents(whole.path)
    with pytest.raises(DataError, match=rf"to restore {name}, got none .*--dataset NAME"):
        geocache.verify(whole.path, repair=True)
    with pytest.raises(DataError, match=r"must hold the samples of cache .*got others"):
        other = ArrayDataset(
            np.zeros((2, 8, 8, 3), np.uint8), np.zeros(2, np.int64), "abc", name="x", split="y"
        )
        geocache.verify(whole.path, repair=True, datasets=(other,))
    assert contents(whole.path) == damaged


def reordered(dataset: Any) -> ArrayDataset:
    images = np.stack([dataset.read(i) for i in range(len(dataset))])[::-1].copy()
    return ArrayDataset(
        images, dataset.labels[::-1].copy(), dataset.classes, name="reordered", split="train"
    )


def test_positions_in_the_data_set_outlive_a_repair_from_another_order(whole: Whole) -> None:
    dataset = whole.request.dataset
    plain = reordered(reordered(dataset))
    assert np.array_equal(np.sort(plain.digests(), 0), np.sort(dataset.digests(), 0))
    put(whole.path, "images/c/1/0/0/0", None)
    put(whole.path, TREES, None)
    geocache.verify(whole.path, repair=True, datasets=(reordered(dataset),))
    assert contents(whole.path) == whole.files


def test_a_lost_root_says_what_it_needs(whole: Whole) -> None:
    put(whole.path, "zarr.json", None)
    with pytest.raises(CacheError, match=r"Give --dataset, --teacher, --weights"):
        geocache.verify(whole.path, repair=True)
    other = dataclasses.replace(whole.request, mean=(0.5, 0.5, 0.5))
    with pytest.raises(CacheError, match=rf"must give the key .*{whole.path.name[:20]}, got"):
        geocache.verify(whole.path, repair=True, root=other)
    # It is found by its key, too.
    report = geocache.verify(
        whole.path.name[:8], whole.path.parent, repair=True, root=whole.request
    )
    assert [finding.key for finding in report.repaired] == ["zarr.json"]
    assert contents(whole.path) == whole.files


def test_a_builder_at_work_is_not_disturbed(whole: Whole) -> None:
    put(whole.path, TREES, None)
    damaged = contents(whole.path)
    with LocalObjects(whole.path).writing():
        with pytest.raises(CacheError, match=r"must not be written by others, got a builder"):
            geocache.verify(whole.path, repair=True)
        assert contents(whole.path) == damaged


def request_of(store: Path, pristine: Whole, **changes: Any) -> BuildRequest:
    return dataclasses.replace(pristine.request, store=store, evaluation=None, **changes)


def test_weights_are_asked_for_and_checked(pristine: Whole, tmp_path: Path) -> None:
    files = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = build_model("resnet20", n_classes=3, input_shape=(3, 8, 8))
        files.append(str(tmp_path / f"{seed}.pt"))
        torch.save(model.state_dict(), files[-1])
    path = Path(build(request_of(tmp_path, pristine, weights=files[0])).path)
    before = contents(path)
    put(path, TREES, None)
    with pytest.raises(CheckpointError, match=r"weights must be those of cache .*got none"):
        geocache.verify(path, repair=True)
    with pytest.raises(CheckpointError, match=r"got others \(.*2.pt\)"):
        geocache.verify(path, repair=True, weights=files[1])
    assert not (path / TREES).exists()
    geocache.verify(path, repair=True, weights=files[0])
    assert contents(path) == before
    assert "--weights FILE" in str(geocache.verify(path, depth="deep").left_out)
    assert geocache.verify(path, depth="deep", weights=files[0]).left_out is None


def test_a_partial_cache_is_repaired_as_far_as_it_was_built(
    pristine: Whole, tmp_path: Path
) -> None:
    path = Path(build(request_of(tmp_path, pristine, limit=37)).path)
    before = contents(path)
    for key in (TREES, "targets/layer1/affinity.r2/c/0/0/0", "meta/arrays/valid/zarr.json"):
        put(path, key, None)
    report = geocache.verify(path, repair=True, datasets=(pristine.request.dataset,))
    assert len(report.repaired) == 3
    assert contents(path) == before


def test_what_was_derived_is_derived_again(pristine: Whole, tmp_path: Path) -> None:
    targets = tuple(parse_target("activation@layer1"))
    path = Path(build(request_of(tmp_path, pristine, targets=targets)).path)
    derive(Cache(path), tuple(parse_target("attention@layer1")))
    before = contents(path)
    assert geocache.verify(path, depth="deep").damage == ()
    key = next(key for key in before if key.startswith("targets/layer1/attention/c/"))
    put(path, key, None)
    geocache.verify(path, repair=True)
    assert contents(path) == before


def rewrite(path: Path, name: str, change: Any) -> None:
    """Commit other rows under a sound receipt: what no checksum can find."""
    cache = Cache(path)
    layout = cache.layouts[name]
    rows = change(cache.read_array(name, 0, 60).copy())
    for group in layout.groups():
        receipt = path / layout.receipt_key(group)
        document = json.loads(receipt.read_bytes())
        own = ("device", "machine", "batch_size", "threads", "versions")
        receipt.unlink()
        writer = CacheWriter(path, {key: document[key] for key in own})
        writer.commit(layout, group, rows[group.start : group.stop])


def set_to(value: Any) -> Any:
    def change(rows: np.ndarray) -> np.ndarray:
        rows.reshape(-1)[5] = value
        return rows

    return change


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("logits", np.nan, "not finite"),
        ("logits.top2.t4", np.inf, "not finite"),
        ("targets/layer1/mst", 63, "no trees"),
        ("targets/layer1/mst", 64, "not among its 64 nodes"),
        ("targets/layer2/knn.k4", 200, "not among its 16 nodes"),
        ("labels", 7, "labels from 0 to 7"),
        ("dataset_index", 7, "each position"),
        ("logits", 3.25, "bit for bit"),
        ("targets/layer1/affinity.r2", 0, "bit for bit"),
    ],
)
def test_a_deep_look_finds_rows_that_cannot_be_right(
    whole: Whole, name: str, value: Any, what: str
) -> None:
    if what == "no trees":
        rewrite(whole.path, name, set_ring)
    else:
        rewrite(whole.path, name, set_to(value))
    assert geocache.verify(whole.path).damage == ()
    report = geocache.verify(whole.path, depth="deep")
    assert any(what in finding.what and finding.array == name for finding in report.damage)


def set_ring(rows: np.ndarray) -> np.ndarray:
    """Make two nodes each other's parents."""
    rows[0, 5], rows[0, 63] = 63, 5
    return rows


def test_a_deep_look_compares_bits_or_within_a_tolerance(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = geocache.verify(whole.path, depth="deep")
    assert (report.findings, report.left_out) == ((), None)
    assert len(report.compared) == 8
    assert {(c.n_rows, c.by) for c in report.compared} == {(60, "bits")}
    elsewhere = {"device": "cpu", "machine": "another"}
    monkeypatch.setattr("geocache.pipeline.recompute.provenance", lambda *_: elsewhere)
    report = geocache.verify(whole.path, depth="deep")
    assert report.damage == ()
    assert all("other provenance" in compared.by for compared in report.compared)
    rewrite(whole.path, "logits", lambda rows: rows[::-1].copy())
    damage = geocache.verify(whole.path, depth="deep").damage
    assert {finding.array for finding in damage} == {"logits"}
    assert "agrees with the teacher in" in damage[0].what


def test_what_a_deep_look_finds_is_computed_again(whole: Whole) -> None:
    rewrite(whole.path, "targets/layer1/affinity.r5", lambda rows: rows[::-1].copy())
    rewrite(whole.path, "logits", set_to(np.nan))
    # Rows are compared with the teacher once all are finite: it takes a second round.
    report = geocache.verify(whole.path, depth="deep", repair=True)
    assert report.damage == ()
    arrays = {finding.array for finding in report.repaired}
    assert arrays == {"logits", "targets/layer1/affinity.r5"}
    assert contents(whole.path) == whole.files
