"""Names, notes and pins: legal ones only, unique in a store, found everywhere, never in the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from geocache.data.catalog import cache_folder, find_cache, label_cache
from geocache.data.labels import LABEL, Label, read_label
from geocache.data.locks import locked
from geocache.data.objects import LocalObjects
from geocache.data.sealed import seal
from geocache.data.store import group_metadata
from geocache.errors import CacheError, ConfigError, StorageError

KEYS = ("abcd" + "0" * 60, "beef" + "1" * 60)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for key in KEYS:
        folder = cache_folder(tmp_path / "store", key)
        assert isinstance(folder, Path)
        folder.mkdir(parents=True)
        (folder / "zarr.json").write_bytes(group_metadata({"geocache": {"key": key}}))
    return tmp_path / "store"


def folders(store: Path) -> tuple[Path, Path]:
    first, second = (Path(cache_folder(store, key)) for key in KEYS)
    return first, second


def test_a_name_stands_for_its_cache(store: Path) -> None:
    first, second = folders(store)
    assert read_label(LocalObjects(first)) == Label()
    label_cache(first, Label("cifar-r56", "the paper's teacher \u2713", pinned=True))
    label_cache(second, Label("cifar-r20"))
    assert find_cache("cifar-r56", store) == first
    assert find_cache("cifar-r20", store) == second
    assert read_label(LocalObjects(first)).note == "the paper's teacher \u2713"
    label_cache(first, Label("Teacher.1"))
    assert find_cache("Teacher.1", store) == first
    with pytest.raises(CacheError, match="a name or the first letters"):
        find_cache("cifar-r56", store)


@pytest.mark.parametrize("taken", ["mine", "MINE"])
def test_a_name_is_one_caches_only(store: Path, taken: str) -> None:
    first, second = folders(store)
    label_cache(first, Label("mine"))
    with pytest.raises(CacheError, match=rf"name '{taken}' must be one cache's only, got .*abcd"):
        label_cache(second, Label(taken))
    assert read_label(LocalObjects(second)) == Label()
    label_cache(first, Label("mine", "the same once more"))


def test_a_name_must_not_begin_another_caches_key(store: Path) -> None:
    first, second = folders(store)
    with pytest.raises(CacheError, match="must not begin another cache's key"):
        label_cache(first, Label("beef1"))
    label_cache(second, Label("beef1"))
    assert find_cache("beef1", store) == second


def test_a_name_that_also_begins_a_later_key_is_ambiguous(store: Path) -> None:
    first, second = folders(store)
    from geocache.data.labels import write_label

    write_label(LocalObjects(first), Label("beef"))
    with pytest.raises(CacheError, match=r"'beef' must be unique, got abcd0000, beef1111"):
        find_cache("beef", store)
    assert find_cache("beef1", store) == second


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../up", "a/b", "a\\b", "-rf", ".hidden", "a b", "a\n", "a\x1b[2J", "a\0",
     "caf\u00e9", "x" * 41, "\u0663\u0663\u0663"],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(store: Path, name: str) -> None:
    first, _ = folders(store)
    with pytest.raises(ConfigError, match="1 to 40 letters") as caught:
        label_cache(first, Label(name))
    assert str(caught.value).isprintable()
    assert not (first / LABEL).exists()


@pytest.mark.parametrize("note", ["two\nlines", "red\x1b[31m", "bell\a", "\u202egnp", "x" * 501])
def test_notes_that_steer_a_terminal_are_refused(store: Path, note: str) -> None:
    first, _ = folders(store)
    with pytest.raises(ConfigError, match="one line of at most 500") as caught:
        label_cache(first, Label("x", note))
    assert str(caught.value).isprintable()
    assert not (first / LABEL).exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[" * 100_000,
        seal({"name": "x", "note": "", "pinned": False})[:-2] + b" }",
        seal({"name": "../x", "note": "", "pinned": False}),
        seal({"name": "x", "note": "\x1b[2J", "pinned": False}),
        seal({"name": 3, "note": "", "pinned": False}),
        seal({"name": "x", "note": "", "pinned": "no"}),
        seal({}),
    ],
)
def test_a_damaged_label_is_a_pin(store: Path, data: bytes) -> None:
    first, _ = folders(store)
    (first / "meta").mkdir()
    (first / LABEL).write_bytes(data)
    assert read_label(LocalObjects(first)) == Label(pinned=True, damaged=True)
    assert find_cache("abcd", store) == first
    label_cache(first, Label("new"))
    assert read_label(LocalObjects(first)) == Label("new")


def test_names_are_given_by_one_process_at_a_time(store: Path) -> None:
    first, _ = folders(store)
    with (
        locked(store / ".naming", shared=False),
        pytest.raises(CacheError, match="another process must finish naming"),
    ):
        label_cache(first, Label("x"))
    label_cache(first, Label("x"))


def test_a_label_that_the_disk_refuses(store: Path) -> None:
    first, _ = folders(store)
    (first / "meta").write_text("a file where the folder is needed")
    with pytest.raises(StorageError, match=r"meta/label\.json"):
        label_cache(first, Label("x"))
