"""File digests are right, remembered, and never remembered wrongly."""

from __future__ import annotations

import builtins
import hashlib
import logging
import multiprocessing
import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from geocache.data import digests as module
from geocache.data.digests import cache_home, file_digests
from geocache.errors import DataError, MissingDataError

NAMES = ["a/0", "a/1", "a/2", "b/0", "b/c/0", "top"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "files"
    for number, name in enumerate(NAMES):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * (number * 700_000 + 1))
    return root


def expected(root: Path) -> np.ndarray:
    raw = [hashlib.sha256((root / name).read_bytes()).digest() for name in NAMES]
    return np.frombuffer(b"".join(raw), np.uint8).reshape(-1, 32)


def n_remembered() -> int:
    connection = sqlite3.connect(cache_home() / "digests-1.sqlite3")
    try:
        return int(connection.execute("SELECT count(*) FROM files").fetchone()[0])
    finally:
        connection.close()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that are opened for reading from here on."""
    seen: list[str] = []
    original = builtins.open

    def spy(path: str, *args: object, **options: object) -> object:
        seen.append(str(path))
        return original(path, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(module, "open", spy, raising=False)
    return seen


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("slow_file_s", [0.0, 1e9])
def test_digests_are_sha256(
    folder: Path, threads: int, slow_file_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLOW_FILE_S", slow_file_s)  # threads from the start, or never
    monkeypatch.setattr(module, "CHUNK_FILES", 2)
    done: list[int] = []
    found = file_digests(folder, NAMES, threads=threads, progress=done.append)
    np.testing.assert_array_equal(found, expected(folder))
    assert done == [3, 4, 5, 6]


def test_the_second_call_reads_no_file(folder: Path, reads: list[str]) -> None:
    file_digests(folder, NAMES, settled_ns=0)
    assert len(reads) == len(NAMES)
    reads.clear()
    np.testing.assert_array_equal(file_digests(folder, NAMES, settled_ns=0), expected(folder))
    assert reads == []


def test_only_what_changed_is_read_again(folder: Path, reads: list[str]) -> None:
    file_digests(folder, NAMES, settled_ns=0)
    reads.clear()
    changed = folder / "a" / "1"
    before = changed.stat()
    changed.write_bytes(b"x" * before.st_size)
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))  # same size, same date
    np.testing.assert_array_equal(file_digests(folder, NAMES, settled_ns=0), expected(folder))
    assert reads == [str(changed)]


def test_a_file_touched_just_now_is_not_remembered(folder: Path) -> None:
    file_digests(folder, NAMES, settled_ns=3600 * 10**9)
    assert n_remembered() == 0


@pytest.mark.parametrize("damage", ["no database", "folder", "unwritable"])
def test_without_a_memory_all_is_hashed(
    folder: Path, damage: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home = cache_home()
    if damage == "unwritable":
        monkeypatch.setenv("GEOCACHE_HOME", str(folder / "top"))  # a file, not a folder
    else:
        home.mkdir()
    if damage == "no database":
        (home / "digests-1.sqlite3").write_bytes(b"something else entirely" * 100)
    elif damage == "folder":
        (home / "digests-1.sqlite3").mkdir()
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(file_digests(folder, NAMES, settled_ns=0), expected(folder))
    assert [
        record.getMessage().startswith("File digests are not") for record in caplog.records
    ] == [True]


def test_files_that_are_gone_or_cannot_be_read(folder: Path) -> None:
    with pytest.raises(MissingDataError, match="nothing must be there, but is gone"):
        file_digests(folder, [*NAMES, "nothing"])
    with pytest.raises(DataError, match=r"a must be a readable file, got Is a directory"):
        file_digests(folder, ["a"])


def test_names_that_are_not_utf8(folder: Path) -> None:
    name = os.fsdecode(b"a/\xff\xfe.jpg")
    try:
        (folder / name).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    for _ in range(2):
        found = file_digests(folder, [name], settled_ns=0)
        assert found.tobytes() == hashlib.sha256(b"x").digest()


def digest_in_child(root: str) -> bytes:
    return file_digests(root, NAMES, settled_ns=0).tobytes()


def test_processes_share_the_memory(folder: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.map(digest_in_child, [str(folder)] * 8)
    assert set(results) == {expected(folder).tobytes()}
    assert n_remembered() == len(NAMES)


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GEOCACHE_HOME", str(tmp_path / "here"))
    assert cache_home() == tmp_path / "here"
    monkeypatch.delenv("GEOCACHE_HOME")
    assert cache_home().name == "geocache"
