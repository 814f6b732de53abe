"""Objects are whole or absent, never replaced by create, and say clearly what the disk refused."""

from __future__ import annotations

import resource
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from geocache.data.files import Files, using_files
from geocache.data.objects import LocalObjects
from geocache.errors import CacheError, StorageError


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path / "deep" / "store")


def every_file(objects: LocalObjects) -> list[str]:
    files = [path for path in objects.root.rglob("*") if path.is_file()]
    return sorted(path.relative_to(objects.root).as_posix() for path in files)


def test_put_get_exists_list_delete(objects: LocalObjects) -> None:
    assert objects.names("a") == []
    assert not objects.exists("a/b/c")
    objects.put("a/b/c", b"one")
    objects.put("a/b/d", b"")
    objects.put("a/b/c", b"two")
    assert objects.get("a/b/c") == b"two"
    assert objects.get("a/b/d") == b""
    assert objects.exists("a/b/c")
    assert not objects.exists("a/b")
    assert objects.names("a") == ["b"]
    assert objects.names("a/b") == ["c", "d"]
    objects.delete("a/b/c")
    objects.delete("a/b/c")
    assert objects.names("a/b") == ["d"]


def test_create_never_replaces(objects: LocalObjects) -> None:
    assert objects.create("a/b", b"first") is True
    assert objects.create("a/b", b"second") is False
    assert objects.get("a/b") == b"first"


def test_nothing_temporary_stays(objects: LocalObjects) -> None:
    for data in (b"1", b"2"):
        objects.put("a/put", data)
        objects.create("a/create", data)
    assert every_file(objects) == ["a/create", "a/put"]


def test_unfinished_writes_are_not_listed(objects: LocalObjects) -> None:
    objects.put("a/b", b"x")
    (objects.root / "a" / ".tmp-0123456789abcdef").write_bytes(b"from a process that was killed")
    assert objects.names("a") == ["b"]


def test_missing_object_is_named(objects: LocalObjects) -> None:
    with pytest.raises(CacheError, match=r"object 'a/b' must exist, .* missing \(in .*store"):
        objects.get("a/b")


def test_unreadable_object_is_named(objects: LocalObjects) -> None:
    (objects.root / "a" / "b").mkdir(parents=True)
    with pytest.raises(CacheError, match="object 'a/b' cannot be read"):
        objects.get("a/b")


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """Let the operating system refuse files above a size, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("verb", ["put", "create"])
def test_a_refused_write_changes_nothing(objects: LocalObjects, verb: str) -> None:
    objects.put("a/b", b"old")
    key = "a/b" if verb == "put" else "a/c"
    with (
        largest_file(4096),
        pytest.raises(StorageError, match=f"object '{key}' could not be written: .* too large"),
    ):
        getattr(objects, verb)(key, bytes(100_000))
    assert every_file(objects) == ["a/b"]
    assert objects.get("a/b") == b"old"


class FullFiles(Files):
    """The one file that is always full is /dev/full."""

    def write(self, path: Path, data: bytes) -> None:
        path.symlink_to("/dev/full")
        with path.open("wb") as file:
            file.write(data)


def test_a_full_disk_says_what_to_do(objects: LocalObjects) -> None:
    objects.put("a/b", b"old")
    full = pytest.raises(StorageError, match=r"the disk is full: object 'a/b'.*run the same comm")
    with using_files(FullFiles()), full:
        objects.put("a/b", b"new")
    assert objects.get("a/b") == b"old"
    assert every_file(objects) == ["a/b"]


def test_a_file_where_a_folder_is_needed(objects: LocalObjects) -> None:
    objects.put("a", b"file")
    with pytest.raises(StorageError, match="object 'a/b' could not be written"):
        objects.put("a/b", b"x")


def test_an_interrupted_write_leaves_nothing(objects: LocalObjects) -> None:
    class Interrupting(LocalObjects):
        def path(self, key: str) -> Path:
            if (self.root / "a" / ".tmp-interrupted").exists():
                raise KeyboardInterrupt
            return super().path(key)

    interrupting = Interrupting(objects.root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secrets, "token_hex", lambda n: "interrupted")
        with pytest.raises(KeyboardInterrupt):
            interrupting.put("a/b", b"x")
    assert every_file(objects) == []


def test_free_bytes_of_a_folder_to_come(objects: LocalObjects) -> None:
    assert not objects.root.exists()
    free = shutil.disk_usage(objects.root.parents[1]).free
    assert objects.free_bytes() == pytest.approx(free, rel=0.1)
