"""Opening a cache to use it is noted, at most once an hour, and never in the way."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from geocache.data.cache import Cache, open_cache
from geocache.data.objects import LocalObjects
from geocache.data.usage import STAMP, Usage, size_and_use, stamp_used

HOUR = 3600


@pytest.fixture
def copy(small_cache: Cache, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(small_cache.path, tmp_path / "copy.zarr"))
    (folder / STAMP).unlink(missing_ok=True)
    for path in folder.rglob("*"):
        os.utime(path, (1e9, 1e9))
    return folder


def test_opening_counts_as_use(copy: Path) -> None:
    assert size_and_use(copy)[1] == 1e9
    Cache(copy)
    assert not (copy / STAMP).exists()
    open_cache(copy)
    assert (copy / STAMP).read_bytes() == b""
    assert abs(size_and_use(copy)[1] - time.time()) < HOUR


def test_a_stamp_is_renewed_once_an_hour(copy: Path) -> None:
    stamp_used(copy)
    for age, renewed in ((HOUR // 2, False), (2 * HOUR, True)):
        then = time.time() - age
        os.utime(copy / STAMP, (then, then))
        open_cache(copy)
        assert ((copy / STAMP).stat().st_mtime > then + 1) is renewed


def test_hours_of_reading_are_noted(copy: Path) -> None:
    cache = open_cache(copy)
    os.utime(copy / STAMP, (1e9, 1e9))
    cache.read("logits", 0, 1)
    assert (copy / STAMP).stat().st_mtime == 1e9
    assert isinstance(cache.reader.usage, Usage)
    cache.reader.usage.renewed_s -= 2 * HOUR
    cache.read("logits", 0, 1)
    assert time.time() - (copy / STAMP).stat().st_mtime < HOUR


def test_asking_who_writes_is_no_use(copy: Path) -> None:
    (copy / "meta" / "lock").unlink()
    with LocalObjects(copy).alone():
        assert size_and_use(copy)[1] == 1e9


def test_a_cache_that_cannot_be_stamped_is_read_all_the_same(copy: Path) -> None:
    (copy / "meta").rename(copy / "aside")
    (copy / "meta").write_text("no folder")
    stamp_used(copy)
    stamp_used(copy / "nowhere")
    stamp_used("s3://bucket/cache.zarr")
    assert (copy / "meta").read_text() == "no folder"


def test_a_stamp_never_leads_out_of_the_cache(copy: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("x")
    os.utime(outside, (1e9, 1e9))
    (copy / STAMP).symlink_to(outside)
    stamp_used(copy)
    assert outside.stat().st_mtime == 1e9
    shutil.rmtree(copy / "meta")
    (tmp_path / "folder").mkdir()
    (copy / "meta").symlink_to(tmp_path / "folder")
    stamp_used(copy)
    assert list((tmp_path / "folder").iterdir()) == []
