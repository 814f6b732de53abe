"""Caches are found by path or by the first letters of their key, in one store or another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from geocache.data.catalog import cache_folder, find_cache, list_caches, store_root
from geocache.data.store import group_metadata
from geocache.errors import CacheError, ConfigError

KEYS = ("abcd" + "0" * 60, "abce" + "1" * 60, "ffff" + "2" * 60)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store = tmp_path / "store"
    for key in KEYS:
        folder = cache_folder(store, key)
        folder.mkdir(parents=True)
        (folder / "zarr.json").write_bytes(group_metadata({"geocache": {"key": key}}))
    return store


def test_what_is_no_cache_is_passed_over(store: Path) -> None:
    (store / "notes.txt").write_text("x")
    (store / "empty.zarr").mkdir()
    for name, text in (("other.zarr", json.dumps({"attributes": {}})), ("torn.zarr", "{")):
        (store / name).mkdir()
        (store / name / "zarr.json").write_text(text)
    entries = list_caches(store)
    assert [entry.key for entry in entries] == list(KEYS)
    assert [entry.path for entry in entries] == [cache_folder(store, key) for key in KEYS]
    assert list_caches(store / "nowhere") == []


def test_find_by_letters_or_by_path(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = cache_folder(store, KEYS[0])
    assert find_cache("abcd", store) == expected
    assert find_cache(KEYS[0], store) == expected
    assert find_cache(expected) == expected
    assert find_cache(str(expected)) == expected
    monkeypatch.chdir(store)
    assert find_cache(expected.name) == expected
    monkeypatch.setenv("GEOCACHE_STORE", str(store))
    assert find_cache("ffff") == cache_folder(store, KEYS[2])


def test_not_found_lists_what_is_there(store: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"'beef' must be .*which holds abcd00000000, abce1111"):
        find_cache("beef", store)
    with pytest.raises(CacheError, match="holds no caches"):
        find_cache("beef", tmp_path / "nowhere")
    with pytest.raises(CacheError, match="4 or more"):
        find_cache("fff", store)


def test_ambiguous_letters_are_refused(tmp_path: Path) -> None:
    for key in ("abcdef00" + "0" * 56, "abcdef11" + "0" * 56):
        folder = cache_folder(tmp_path, key)
        folder.mkdir()
        (folder / "zarr.json").write_bytes(group_metadata({"geocache": {"key": key}}))
    with pytest.raises(CacheError, match=r"'abcdef' must be unique, got abcdef0000, abcdef1100"):
        find_cache("abcdef", tmp_path)


def test_store_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOCACHE_STORE", str(tmp_path / "env"))
    assert store_root() == tmp_path / "env"
    assert store_root(tmp_path / "given") == tmp_path / "given"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store_root("~/caches") == tmp_path / "caches"
    monkeypatch.chdir(tmp_path)
    assert store_root("here") == tmp_path / "here"
    monkeypatch.delenv("GEOCACHE_STORE")
    assert store_root().name == "store"
    with pytest.raises(ConfigError, match="s3://BUCKET/PREFIX, got 'gs://bucket/x'"):
        store_root("gs://bucket/x")
    assert store_root("s3://bucket/x/") == "s3://bucket/x"
