"""Committing: what counts, what is published when, who may write what twice."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geocache.data.cache import Cache
from geocache.data.layout import ArrayLayout
from geocache.data.objects import LocalObjects
from geocache.data.writer import CacheWriter, create_cache, small_layout
from geocache.errors import CacheError, MissingTargetError, StorageError

N_ROWS = 5000
LAYOUT = ArrayLayout(
    "targets/l/mst", "uint8", N_ROWS, (4,), ("node",), 4, n_views=2,
    attributes={"geocache": {"kind": "mst"}},
)  # fmt: skip


def about(key: str = "k" * 64) -> dict[str, Any]:
    return {
        "key": key,
        "identity": {"format": 1, "teacher": {"mean": [0.5] * 3, "std": [0.2] * 3}},
        "classes": ["a", "b"],
        "n_rows": N_ROWS,
        "image_shape": [8, 8, 3],
        "probe": [[1.0]],
    }


def rows(view: int = 0) -> np.ndarray:
    return np.random.default_rng(view).integers(0, 4, (N_ROWS, 4)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "cache.zarr"
    create_cache(path, about())
    return path


@pytest.fixture
def writer(folder: Path) -> CacheWriter:
    writer = CacheWriter(folder, {"device": "cpu", "batch_size": 64})
    writer.declare(LAYOUT)
    return writer


def test_what_has_no_receipt_is_not_there(writer: CacheWriter, folder: Path) -> None:
    cache = Cache(folder)
    first, second, third = (g for g in LAYOUT.groups() if g.view == 0)
    assert cache.target_names() == ()
    with pytest.raises(MissingTargetError, match=r"rows 0 to 9 of 'l/mst' are not built"):
        cache.read("l/mst", 0, 10)
    writer.commit(LAYOUT, first, rows()[: first.stop])
    writer.commit(LAYOUT, third, rows()[third.start :])
    assert cache.n_built("l/mst") == 0  # The second view has none.
    assert np.array_equal(cache.read("l/mst", 100, first.stop), rows()[100 : first.stop])
    with pytest.raises(MissingTargetError, match=rf"rows {second.start} to {second.start} of"):
        cache.read("l/mst", 0, second.start + 1)
    with pytest.raises(MissingTargetError, match="view 1"):
        cache.read("l/mst", 0, 1, view=1)


def test_the_front_grows_view_by_view(writer: CacheWriter, folder: Path) -> None:
    cache = Cache(folder)
    built = []
    for group in LAYOUT.groups():
        writer.commit(LAYOUT, group, rows(group.view)[group.start : group.stop])
        built.append(cache.n_built("l/mst"))
    assert built == [0, 0, 0, 2048, 4096, 5000]
    assert cache.target_names() == ("l/mst",)
    for view in (0, 1):
        assert np.array_equal(cache.read("l/mst", 0, N_ROWS, view), rows(view))
        assert np.array_equal(cache.read("l/mst", 2000, 4100, view), rows(view)[2000:4100])
    assert cache.read("l/mst", 17, 17).shape == (0, 4)
    for start, stop in ((-1, 3), (3, 1), (0, N_ROWS + 1)):
        with pytest.raises(CacheError, match=f"rows must lie in 0 to {N_ROWS}"):
            cache.read("l/mst", start, stop)


def test_the_receipt_describes_the_objects(writer: CacheWriter, folder: Path) -> None:
    import hashlib

    import google_crc32c

    group = LAYOUT.groups()[0]
    n_bytes = writer.commit(LAYOUT, group, rows()[: group.stop], {"bad": {"7": "why"}})
    receipt = json.loads(writer.objects.get(LAYOUT.receipt_key(group)))
    data = writer.objects.get(LAYOUT.object_key(group))
    assert receipt["objects"] == {
        LAYOUT.object_key(group): {
            "bytes": len(data), "crc32c": google_crc32c.value(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
    }  # fmt: skip
    assert n_bytes == len(data)
    assert receipt["device"] == "cpu"
    assert receipt["rows"] == [0, 2048]
    assert Cache(folder).left_out(LAYOUT) == {7: "why"}


def test_a_partial_group_is_outgrown(writer: CacheWriter, folder: Path) -> None:
    cache = Cache(folder)
    partial = LAYOUT.groups(stop=100)
    for group in partial:
        writer.commit(LAYOUT, group, rows(group.view)[:100])
    assert cache.n_built("l/mst") == 100
    assert np.array_equal(cache.read("l/mst", 0, 100, view=1), rows(1)[:100])
    with pytest.raises(MissingTargetError, match="rows 0 to 100"):
        cache.read("l/mst", 0, 101)
    for group in LAYOUT.groups():
        writer.commit(LAYOUT, group, rows(group.view)[group.start : group.stop])
    assert cache.n_built("l/mst") == N_ROWS
    names = writer.objects.names(LAYOUT.receipts)
    assert len(names) == 6
    assert not [name for name in names if name.endswith("r000100.json")]


def test_metadata_appears_with_publish(writer: CacheWriter, folder: Path) -> None:
    assert not writer.objects.exists("targets/l/mst/zarr.json")
    writer.publish(LAYOUT)
    writer.publish(LAYOUT)
    for place in ("targets/zarr.json", "targets/l/zarr.json", "targets/l/mst/zarr.json"):
        assert writer.objects.exists(place)


def test_another_layout_is_refused(writer: CacheWriter) -> None:
    writer.declare(LAYOUT)
    other = ArrayLayout("targets/l/mst", "uint8", N_ROWS, (5,), ("node",), 5, n_views=2)
    with pytest.raises(CacheError, match="'targets/l/mst' exists with another layout"):
        writer.declare(other)


def test_a_missing_object_is_an_error_and_no_zeros(writer: CacheWriter, folder: Path) -> None:
    group = LAYOUT.groups()[0]
    writer.commit(LAYOUT, group, rows()[: group.stop])
    writer.objects.delete(LAYOUT.object_key(group))
    with pytest.raises(
        CacheError, match=rf"'{LAYOUT.object_key(group)}' is damaged: it is missing"
    ):
        Cache(folder).read("l/mst", 0, 1)


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_damaged_object_is_named(writer: CacheWriter, folder: Path, damage: str) -> None:
    group = LAYOUT.groups()[0]
    writer.commit(LAYOUT, group, rows()[: group.stop])
    file = writer.objects.path(LAYOUT.object_key(group))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(bytes(data) if damage == "flip" else bytes(data[: len(data) // 2]))
    with pytest.raises(CacheError, match=rf"object '{LAYOUT.object_key(group)}' is damaged"):
        Cache(folder).read("l/mst", 2000, 2001)


@pytest.mark.parametrize("sizes", [None, (2048, 256)], ids=["one chunk", "chunks"])
def test_another_whole_object_is_not_the_one(folder: Path, sizes: tuple[int, int] | None) -> None:
    """A CRC-32C over chunks that end in their own is one number for all of a length."""
    layout = dataclasses.replace(LAYOUT, path="targets/l/other", sizes=sizes)
    writer = CacheWriter(folder, {})
    writer.declare(layout)
    noise = np.random.default_rng(3).integers(0, 256, (4096, 4)).astype(np.uint8)
    for group in layout.groups()[:2]:
        writer.commit(layout, group, noise[group.start : group.stop])
    one, other = (writer.objects.path(layout.object_key(g)) for g in layout.groups()[:2])
    assert one.stat().st_size == other.stat().st_size
    one.write_bytes(other.read_bytes())
    with pytest.raises(CacheError, match="is not the one that its receipt describes"):
        Cache(folder).read("l/other", 0, 1)


def test_replace_corrects_and_leaves_alone(writer: CacheWriter, folder: Path) -> None:
    labels = np.arange(N_ROWS) % 7
    layout = small_layout("labels", labels)
    writer.replace(layout, labels)
    file = writer.objects.path(layout.object_key(layout.groups()[0]))
    before = file.stat().st_mtime_ns, file.stat().st_ino
    writer.replace(layout, labels.copy())
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == before
    corrected = labels.copy()
    corrected[17] = 6
    writer.replace(layout, corrected)
    assert np.array_equal(Cache(folder).labels, corrected)
    receipt = json.loads(writer.objects.get(layout.receipt_key(layout.groups()[0])))
    described = next(iter(receipt["objects"].values()))
    assert described["bytes"] == file.stat().st_size


def test_replace_writes_again_over_a_damaged_receipt(writer: CacheWriter, folder: Path) -> None:
    labels = np.arange(N_ROWS)
    layout = small_layout("labels", labels)
    writer.replace(layout, labels)
    writer.objects.path(layout.receipt_key(layout.groups()[0])).write_bytes(b"{")
    writer.replace(layout, labels)
    assert np.array_equal(Cache(folder).labels, labels)


def test_bytes_that_read_back_differently_are_not_committed(folder: Path) -> None:
    class Lossy(LocalObjects):
        """A disk that loses the last byte of data objects."""

        def put(self, key: str, data: bytes) -> None:
            super().put(key, data[:-1])

    writer = CacheWriter(folder, {})
    writer.objects = Lossy(folder)
    writer.declare(LAYOUT)
    group = LAYOUT.groups()[0]
    with pytest.raises(StorageError, match=r"reads back differently .*Check the disk"):
        writer.commit(LAYOUT, group, rows()[: group.stop])
    assert Cache(folder).receipts(LAYOUT) == {}


def test_create_cache_keeps_the_first_and_refuses_another(folder: Path) -> None:
    changed = about() | {"probe": [[2.0]]}
    assert create_cache(folder, changed).about["probe"] == [[1.0]]
    with pytest.raises(CacheError, match=r"must hold cache xxx.*got kkk"):
        create_cache(folder, about("x" * 64))


def test_row_groups_of_a_million_rows_count(folder: Path, writer: CacheWriter) -> None:
    """A receipt's name has six digits for the rows, or as many as it takes."""
    labels = (np.arange(2**20 + 5) % 251).astype(np.uint8)
    writer.replace(small_layout("eval/many/labels", labels), labels)
    cache = Cache(folder)
    assert cache.receipts(cache.layouts["eval/many/labels"]) == {(0, 0): 2**20, (0, 1): 5}
    assert np.array_equal(cache.read_array("eval/many/labels", 0, len(labels)), labels)


def test_files_of_a_whole_array_are_read_only_and_can_still_be_corrected(
    folder: Path, writer: CacheWriter
) -> None:
    group = LAYOUT.groups()[0]
    writer.commit(LAYOUT, group, rows()[: group.stop])
    partial = folder / LAYOUT.object_key(group)
    labels = np.arange(5000)
    writer.replace(small_layout("labels", labels), labels)
    files = [folder / "labels" / "c" / "0", *(folder / "meta/receipts/labels").glob("*.json")]
    assert len(files) == 2
    assert [file.stat().st_mode & 0o777 for file in files] == [0o444, 0o444]
    assert partial.stat().st_mode & 0o200
    writer.replace(small_layout("labels", labels[::-1]), labels[::-1])
    assert np.array_equal(Cache(folder).read_array("labels", 0, 5000), labels[::-1])
    assert files[0].stat().st_mode & 0o777 == 0o444
