"""Receipts of other things, links and pipes: never believed, never followed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stores import make_cache

from geocache.data.cache import Cache
from geocache.data.catalog import find_cache
from geocache.data.layout import SMALL_UNIT_ROWS, ArrayLayout
from geocache.data.leftovers import find_leftovers, remove_leftovers
from geocache.data.objects import LocalObjects
from geocache.data.sealed import seal, unseal
from geocache.errors import CacheError


def one_line(error: BaseException) -> None:
    assert "\n" not in str(error) and len(str(error)) < 1000


def test_receipts_that_describe_other_things(tmp_path: Path) -> None:
    folder = make_cache(tmp_path, "a")
    layout = Cache(folder).layouts["labels"]
    objects = LocalObjects(folder)
    (group,) = layout.groups()
    key = layout.receipt_key(group)
    good = unseal(objects.get(key), key)
    other = {"images/c/0": good["objects"]["labels/c/0"]}
    for change in (
        {"objects": other},
        {"objects": {"../labels/c/0": good["objects"]["labels/c/0"]}},
        {"objects": []},
        {"objects": {"labels/c/0": [1]}},
        {"objects": {"labels/c/0": {"bytes": "1", "crc32c": None}}},
        {"layout": "0" * 64},
        {"layout": None},
    ):
        objects.put(key, seal(good | change))
        with pytest.raises(CacheError, match="'labels/c/0' is damaged") as found:
            _ = Cache(folder).labels
        one_line(found.value)
    objects.put(key, seal(good))
    assert Cache(folder).labels.shape == (50,)


@pytest.mark.parametrize(
    "name",
    ["v1-g000000-r000050.json", "v0-g000001-r000050.json", "v0-g000000-r000051.json",
     "v0-g000000-r000000.json", f"v0-g{'9' * 12}-r000050.json", "v-1-g000000-r000050.json",
     f"v{'9' * 200}-g000000-r000050.json", f"v0-g000000-r{'9' * 200}.json",
     "v\u0660-g000000-r000050.json"],
)  # fmt: skip
def test_receipts_whose_names_fit_no_row_group(tmp_path: Path, name: str) -> None:
    folder = make_cache(tmp_path, "a")
    (receipt,) = (folder / "meta" / "receipts" / "labels").glob("v*.json")
    receipt.rename(receipt.with_name(name))
    cache = Cache(folder)
    assert cache.receipts(cache.layouts["labels"]) == {}
    assert cache.n_built("labels") == 0
    with pytest.raises(CacheError, match=r"are not built|receipt is missing"):
        _ = cache.labels


@pytest.mark.parametrize("bad", [[1], "x", {"row": "why"}, 7])
def test_receipts_whose_notes_lie(tmp_path: Path, bad: Any) -> None:
    folder = make_cache(tmp_path, "a")
    cache = Cache(folder)
    layout = cache.layouts["labels"]
    key = layout.receipt_key(layout.groups()[0])
    cache.objects.put(key, seal(unseal(cache.objects.get(key), key) | {"bad": bad}))
    with pytest.raises(CacheError, match="must name rows under `bad`"):
        cache.left_out(layout)


def test_a_million_rows_of_labels_are_counted() -> None:
    """The whole group's count has seven digits, and its receipt must count all the same."""
    from geocache.data.receipts import _RECEIPT

    layout = ArrayLayout("labels", "int64", 2**20 + 1, (), (), 8, unit_rows=SMALL_UNIT_ROWS)
    names = [layout.receipt_key(group).rpartition("/")[2] for group in layout.groups()]
    assert names == ["v0-g000000-r1048576.json", "v0-g000001-r000001.json"]
    assert all(_RECEIPT.fullmatch(name) for name in names)


def test_links_within_a_cache_are_never_followed(tmp_path: Path) -> None:
    """Neither read nor written, listed, made read-only or deleted through."""
    outside = tmp_path / "outside"
    (outside / "c").mkdir(parents=True)
    (outside / "c" / "0").write_bytes(b"precious")
    folder = make_cache(tmp_path / "store", "a")
    objects = LocalObjects(folder)
    (folder / "labels").rename(tmp_path / "aside")
    (folder / "labels").symlink_to(outside)
    for act in (
        lambda: Cache(folder).labels,
        lambda: objects.get("labels/c/0"),
        lambda: objects.put("labels/c/0", b"x"),
        lambda: objects.put("labels/new", b"x"),
        lambda: objects.create("labels/new", b"x"),
        lambda: objects.delete("labels/c/0"),
        lambda: objects.protect("labels/c/0"),
        lambda: objects.walk("labels/c"),
        lambda: find_leftovers(Cache(folder)),
        lambda: remove_leftovers(Cache(folder)),
    ):
        with pytest.raises(CacheError, match="must lie in the cache itself, got a link"):
            act()
    assert [path.name for path in outside.rglob("*")] == ["c", "0"]
    assert (outside / "c" / "0").read_bytes() == b"precious"
    assert (outside / "c" / "0").stat().st_mode & 0o200


def test_a_linked_object_is_not_read(tmp_path: Path) -> None:
    folder = make_cache(tmp_path, "a")
    file = folder / "labels" / "c" / "0"
    secret = tmp_path / "secret"
    file.rename(secret)
    file.symlink_to(secret)
    LocalObjects(folder).protect("labels/c/0")
    with pytest.raises(CacheError, match="must be a plain file"):
        LocalObjects(folder).get("labels/c/0")
    with pytest.raises(CacheError, match="labels/c/0"):
        _ = Cache(folder).labels


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_does_not_make_a_reader_wait(tmp_path: Path) -> None:
    folder = make_cache(tmp_path, "a")
    for key in ("meta/arrays/labels/zarr.json", "labels/c/0"):
        (folder / key).unlink()
        os.mkfifo(folder / key)
        with pytest.raises(CacheError, match=r"plain file|missing"):
            _ = Cache(folder).labels


def test_a_caches_own_folder_may_be_a_link(tmp_path: Path) -> None:
    """Large caches stand on another disk; that link is the user's own."""
    folder = make_cache(tmp_path / "disk", "a")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / folder.name).symlink_to(folder)
    found = find_cache("aaaa", tmp_path / "store")
    assert np.array_equal(Cache(found).labels, Cache(folder).labels)


def test_a_file_in_a_folders_place_is_told_from_a_link(tmp_path: Path) -> None:
    (tmp_path / "labels").write_bytes(b"x")
    objects = LocalObjects(tmp_path)
    assert objects.walk("labels/c/0") == []
    with pytest.raises(CacheError, match=r"'labels/c/0' cannot be read"):
        objects.get("labels/c/0")


def test_a_link_anywhere_on_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside" / "0").mkdir(parents=True)
    (tmp_path / "cache" / "a" / "b").mkdir(parents=True)
    (tmp_path / "cache" / "a" / "b" / "c").symlink_to(tmp_path / "outside")
    with pytest.raises(CacheError, match="must lie in the cache itself, got a link"):
        LocalObjects(tmp_path / "cache").get("a/b/c/0/x")
    (tmp_path / "link").symlink_to(tmp_path / "cache")  # The cache itself may be one.
    assert LocalObjects(tmp_path / "link").walk("a/b") == []
