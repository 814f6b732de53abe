"""Copies are equal byte for byte, checked on the way, resumable, and visible when whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from s3_server import Proxy

from geocache.data.cache import Cache
from geocache.data.catalog import list_caches
from geocache.data.layout import ArrayLayout
from geocache.data.objects import open_objects
from geocache.data.transfer import TransferReport, copy_cache
from geocache.data.writer import CacheWriter, create_cache, small_layout
from geocache.errors import CacheError, ConfigError, GeocacheError, MissingTargetError

N_ROWS = 5000
KEY = "f" * 64
MST = ArrayLayout(
    "targets/l/mst", "uint8", N_ROWS, (4,), ("node",), 4, n_views=2,
    attributes={"geocache": {"kind": "mst"}},
)  # fmt: skip
IMAGES = ArrayLayout("images", "uint8", N_ROWS, (2, 2, 3), ("y", "x", "channel"), 12)
EVAL = ArrayLayout("eval/abc/images", "uint8", 30, (2, 2, 3), ("y", "x", "channel"), 12)


def about(key: str = KEY) -> dict[str, Any]:
    return {
        "key": key,
        "identity": {"format": 1, "teacher": {"mean": [0.5] * 3, "std": [0.2] * 3}},
        "classes": ["a", "b"],
        "n_rows": N_ROWS,
        "image_shape": [2, 2, 3],
        "probe": [[1.0]],
    }


def rows(layout: ArrayLayout, seed: int = 0) -> np.ndarray:
    shape = (layout.n_rows, *layout.row_shape)
    return np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint8)


def write(
    path: Path | str, layouts: tuple[ArrayLayout, ...], stop: int | None = None, seed: int = 0
) -> None:
    create_cache(path, about())
    writer = CacheWriter(path, {"device": "cpu"})
    for layout in layouts:
        writer.declare(layout)
        for group in layout.groups(stop):
            writer.commit(layout, group, rows(layout, seed)[group.start : group.stop])
        if stop is None:
            writer.publish(layout)
    labels = np.arange(N_ROWS) % 2
    writer.replace(small_layout("labels", labels), labels)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "here" / f"{KEY[:20]}.zarr"
    write(path, (MST, IMAGES, EVAL))
    return path


def contents(address: Any) -> dict[str, bytes]:
    objects = open_objects(address)
    return {key: objects.get(key) for key, _ in objects.walk() if key != "meta/lock"}


def test_push_and_pull_are_byte_equal(source: Path, bucket: str, tmp_path: Path) -> None:
    calls = []
    pushed = copy_cache(source, f"{bucket}/store", progress=lambda *call: calls.append(call))
    assert isinstance(pushed, TransferReport) and pushed.n_copied == pushed.n_groups == 11
    assert calls[0] == ("copying", 0, 11) and calls[-1] == ("copying", 11, 11)
    assert pushed.destination == f"{bucket}/store/{KEY[:20]}.zarr"
    assert contents(pushed.destination) == contents(source)
    pulled = copy_cache(pushed.destination, tmp_path / "there")
    assert contents(pulled.destination) == contents(source)
    files = [file for file in Path(pulled.destination).rglob("*") if file.is_file()]
    writable = {file.name for file in files if file.stat().st_mode & 0o222}
    assert writable == {"zarr.json", "lock"}  # as after a build


def test_a_second_copy_writes_nothing(source: Path, bucket: str, proxy: Proxy) -> None:
    copy_cache(source, bucket)
    proxy.requests.clear()
    again = copy_cache(source, bucket)
    assert (again.n_copied, again.n_bytes) == (0, 0)
    assert proxy.count("PUT", "POST", "DELETE") == 0


def test_nothing_is_visible_before_it_is_whole(source: Path, bucket: str, proxy: Proxy) -> None:
    """The cache's own document is the last write; each receipt comes after its object."""
    copy_cache(source, bucket)
    puts = [request.path for request in proxy.requests if request.method == "PUT"]
    front = f"/{bucket.removeprefix('s3://')}/{KEY[:20]}.zarr/"
    keys = [path.removeprefix(front) for path in puts]
    assert keys[-1] == "zarr.json"
    for layout in (MST, IMAGES, EVAL):
        for group in layout.groups():
            written = keys.index(layout.object_key(group))
            assert written < keys.index(layout.receipt_key(group))
            assert keys.index(layout.receipt_key(group)) < keys.index(f"{layout.path}/zarr.json")


def test_an_interrupted_pull_goes_on(
    source: Path, bucket: str, proxy: Proxy, tmp_path: Path
) -> None:
    """Cut off at request after request: never visible before its end, and done in the end."""
    address = copy_cache(source, bucket).destination
    store, n_tries, fetched = tmp_path / "there", 0, 0
    while True:
        proxy.requests.clear()
        proxy.refuse = lambda request, most=18 + 3 * n_tries: 403 if request.number > most else 0
        try:
            copied = copy_cache(address, store)
            break
        except GeocacheError:
            assert list_caches(store) == []
            n_tries += 1
            fetched = max(fetched, len(list(store.rglob("*.json"))))
    assert n_tries > 3 and fetched > 3
    assert copied.n_copied < copied.n_groups
    assert contents(copied.destination) == contents(source)


def test_an_interrupted_push_goes_on(source: Path, bucket: str, proxy: Proxy) -> None:
    proxy.refuse = lambda request: 403 if request.number > 50 else 0
    with pytest.raises(GeocacheError, match="must be granted"):
        copy_cache(source, bucket)
    proxy.refuse = lambda request: 0
    assert list_caches(bucket) == []
    report = copy_cache(source, bucket)
    assert 0 < report.n_copied < report.n_groups
    assert contents(report.destination) == contents(source)


def test_pull_checks_what_an_earlier_try_left(source: Path, tmp_path: Path) -> None:
    """A bit that flipped between two tries is found, though the receipt is in place."""
    copied = Path(copy_cache(source, tmp_path / "there").destination)
    (copied / "zarr.json").unlink()
    file = copied / MST.object_key(MST.groups()[2])
    data = bytearray(file.read_bytes())
    data[10] ^= 1
    file.chmod(0o644)
    file.write_bytes(bytes(data))
    (copied / IMAGES.receipt_key(IMAGES.groups()[0])).unlink()
    report = copy_cache(source, tmp_path / "there")
    assert report.n_copied == 2
    assert contents(copied) == contents(source)


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "swap", "receipt"])
def test_a_damaged_source_stops_the_copy(source: Path, tmp_path: Path, damage: str) -> None:
    """Named, with the command that repairs it; the rest stays, and the next try goes on."""
    good = contents(source)
    group = MST.groups()[4]
    key = MST.receipt_key(group) if damage == "receipt" else MST.object_key(group)
    file = source / key
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.unlink()
    if damage == "swap":
        shutil.copy(source / MST.object_key(MST.groups()[3]), file)
    elif damage != "delete":
        file.write_bytes(bytes(data[:-7]) if damage == "truncate" else bytes(data))
    store = tmp_path / "there"
    named = rf"object '{MST.object_key(group)}' is damaged: .*verify .*--repair`, then the same"
    with pytest.raises(CacheError, match=named):
        copy_cache(source, store)
    assert list_caches(store) == []
    file.unlink(missing_ok=True)
    file.write_bytes(good[key])
    report = copy_cache(source, store)
    assert report.n_copied < report.n_groups
    assert contents(report.destination) == good


@pytest.mark.parametrize("key", ["zarr.json", "images/zarr.json", "meta/arrays/images/zarr.json"])
def test_a_damaged_document_is_not_passed_on(source: Path, tmp_path: Path, key: str) -> None:
    file = source / key
    file.write_bytes(file.read_bytes().replace(b'"zarr_format": 3', b'"zarr_format":  3'))
    with pytest.raises(CacheError, match=f"object '{key}' is damaged"):
        copy_cache(source, tmp_path / "there")
    assert list_caches(tmp_path / "there") == []


def test_a_receipt_that_is_missing_from_a_whole_array(source: Path, tmp_path: Path) -> None:
    (source / MST.receipt_key(MST.groups()[1])).unlink()
    with pytest.raises(CacheError, match="receipts of a whole array are missing"):
        copy_cache(source, tmp_path / "there")


def test_another_cache_at_the_destination_is_refused(source: Path, tmp_path: Path) -> None:
    there = tmp_path / "there" / source.name
    create_cache(there, about(KEY[:20] + "0" * 44))
    before = contents(there)
    with pytest.raises(CacheError, match="destination must hold cache ffffffffffff or none"):
        copy_cache(source, tmp_path / "there")
    assert contents(there) == before


def test_rows_that_were_built_apart_are_not_mixed(source: Path, tmp_path: Path) -> None:
    there = tmp_path / "there" / source.name
    write(there, (MST,), seed=1)
    with pytest.raises(CacheError, match=r"of 'targets/l/mst' must be the same at both ends"):
        copy_cache(source, tmp_path / "there")
    assert np.array_equal(Cache(there).read("l/mst", 0, N_ROWS), rows(MST, 1))


def test_the_same_rows_by_another_build_are_left_alone(source: Path, tmp_path: Path) -> None:
    there = tmp_path / "there" / source.name
    create_cache(there, about())
    writer = CacheWriter(there, {"device": "another"})
    writer.declare(MST)
    for group in MST.groups():
        writer.commit(MST, group, rows(MST)[group.start : group.stop])
    report = copy_cache(source, tmp_path / "there")
    assert report.n_copied == report.n_groups - len(MST.groups())
    receipt = json.loads((there / MST.receipt_key(MST.groups()[0])).read_text())
    assert receipt["device"] == "another"


def test_a_partial_cache_grows_and_never_shrinks(source: Path, tmp_path: Path) -> None:
    part = tmp_path / "part" / source.name
    write(part, (MST,), stop=2100)
    there = Path(copy_cache(part, tmp_path / "there").destination)
    cache = Cache(there)
    assert cache.n_built("l/mst") == 2100 and not (there / "targets/l/mst/zarr.json").exists()
    assert np.array_equal(cache.read("l/mst", 0, 2100, view=1), rows(MST)[:2100])
    copy_cache(source, tmp_path / "there")
    whole = contents(source)
    assert contents(there) == whole
    copy_cache(part, tmp_path / "there")
    assert contents(there) == whole


def test_corrected_labels_follow(source: Path, bucket: str) -> None:
    address = copy_cache(source, bucket).destination
    labels = np.zeros(N_ROWS, np.int64)
    CacheWriter(source, {}).replace(small_layout("labels", labels), labels)
    assert copy_cache(source, bucket).n_copied == 1
    assert not Cache(address).labels.any()
    assert contents(address) == contents(source)


def test_without_images(source: Path, tmp_path: Path) -> None:
    report = copy_cache(source, tmp_path / "there", images=False)
    cache = Cache(report.destination)
    assert sorted(cache.layouts) == ["labels", "targets/l/mst"]
    assert cache.eval_splits == () and cache.eval_images is None
    assert not [key for key in contents(report.destination) if "images" in key or "eval" in key]
    with pytest.raises(MissingTargetError):
        cache.read("images", 0, 1)
    copy_cache(source, tmp_path / "there")
    assert contents(report.destination) == contents(source)


def test_a_cache_is_not_copied_onto_itself(source: Path) -> None:
    with pytest.raises(ConfigError, match="source and destination must differ"):
        copy_cache(source, source.parent)
