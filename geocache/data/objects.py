"""Durable objects: the only place where a cache's bytes touch a disk or a bucket.

In a folder an object is written to a temporary name beside its own, synced, renamed, and its folder
synced: at any moment it is there whole or not at all, and once `put` returns it survives a power
cut. `create` never replaces. Buckets give the same verbs by themselves (`geocache.data.s3`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from geocache.data.files import current_files
from geocache.data.keys import check_key
from geocache.data.locks import claimed, locked
from geocache.data.marks import Mark
from geocache.errors import CacheError, StorageError

__all__ = ["Address", "LocalObjects", "Objects", "open_objects", "temporary_name"]

Address = Path | str
"""Where a cache or a store stands: a folder, or `s3://BUCKET/PREFIX`."""

_TEMPORARY = ".tmp-"
_LOCK = "meta/lock"
_CLAIMS = "meta/claims"
_MOST_DOCUMENT_BYTES = 64 * 2**20
_MOST_BYTES = 5 * 2**28
"""A row group takes at most 1 GiB; what does not compress takes a little more."""


class Objects(Protocol):
    """Objects under a root, named by `/`-separated keys."""

    @property
    def root(self) -> Address:
        """Where they stand."""

    @property
    def distant(self) -> bool:
        """Whether every call is a request to a server: better few of them, and side by side."""

    def put(self, key: str, data: bytes) -> None:
        """Write an object durably, replacing an old one; StorageError when the disk refuses."""

    def create(self, key: str, data: bytes) -> bool:
        """Write an object durably unless it exists; return whether this call wrote it."""

    def get(self, key: str) -> bytes:
        """Return an object's bytes; raise CacheError when it is missing or cannot be read."""

    def get_marked(self, key: str) -> tuple[bytes, Mark | None]:
        """Return an object's bytes as `get` does, and their mark where the storage gives one."""

    def exists(self, key: str) -> bool:
        """Return whether there is such an object."""

    def names(self, prefix: str) -> list[str]:
        """Return the names right under a folder, sorted, leaving out unfinished writes."""

    def walk(self, prefix: str = "") -> list[tuple[str, int]]:
        """Return (key, bytes) of every object under a folder, sorted by key."""

    def delete(self, key: str) -> None:
        """Remove an object if it is there."""

    def keep_names(self, prefix: str) -> None:
        """Make the names right under a folder durable, whoever gave them."""

    def protect(self, key: str) -> None:
        """Make an object read-only, where the storage knows of that."""

    def free_bytes(self) -> int | None:
        """Return the free space, None where there is no limit to know."""

    def writing(self) -> AbstractContextManager[bool]:
        """Count among the cache's writers meanwhile."""

    def alone(self) -> AbstractContextManager[bool]:
        """Yield whether nobody else writes the cache; nobody begins to meanwhile."""

    def claim(self, name: str, *, wait: bool = False) -> AbstractContextManager[bool]:
        """Yield whether this work is ours; others are refused meanwhile, or wait."""

    def unfinished(self) -> list[str]:
        """Return what unfinished writes left behind, or are writing now."""

    def clean(self) -> list[str]:
        """Remove what unfinished writes left behind, and return it; only when `alone`."""


def open_objects(address: Address) -> Objects:
    """Return the objects under a folder or a bucket's prefix."""
    if "://" in str(address):
        from geocache.data.s3 import S3Objects

        return S3Objects(str(address))
    return LocalObjects(Path(address))


def temporary_name(name: str) -> bool:
    """Return whether a file's name is that of an unfinished write."""
    return name.startswith(_TEMPORARY)


class LocalObjects:
    """Objects in a folder."""

    distant = False

    def __init__(self, root: Path) -> None:
        """Use `root`; it is made when the first object is written."""
        self.root = root
        self._named: set[Path] = set()

    def path(self, key: str) -> Path:
        """Return the file of an object; raise CacheError for a key that leads elsewhere."""
        check_key(key, self.root)
        return self.root.joinpath(*key.split("/"))

    def put(self, key: str, data: bytes) -> None:
        """Write an object durably, replacing an old one; StorageError when the disk refuses."""
        with self._temporary(key, data) as temporary:
            current_files().rename(temporary, self.path(key))

    def create(self, key: str, data: bytes) -> bool:
        """Write an object durably unless it exists; return whether this call wrote it."""
        if self.exists(key):
            self.keep_names(key.rpartition("/")[0])
            return False
        with self._temporary(key, data) as temporary:
            try:
                current_files().link(temporary, self.path(key))
            except FileExistsError:
                return False
            return True

    def get(self, key: str) -> bytes:
        """Return an object's bytes; raise CacheError when it is missing or cannot be read."""
        return self.get_marked(key)[0]

    def get_marked(self, key: str) -> tuple[bytes, Mark | None]:
        """Return an object's bytes as `get` does, and their mark: its file's status."""
        try:
            path = self.path(key)
            self._check_inside(path)
            self._check_kind(path, key)
            return current_files().read_marked(path)
        except FileNotFoundError:
            raise CacheError(
                f"object '{key}' must exist, but it is missing (in {self.root}). "
                "`geocache verify` shows what else is, and --repair restores it."
            ) from None
        except OSError as error:
            raise CacheError(f"object '{key}' cannot be read: {error} (in {self.root}).") from None

    def _check_kind(self, path: Path, key: str) -> None:
        """Refuse what is no plain file (a pipe would wait for ever) or larger than objects are."""
        status = path.lstat()
        most = _MOST_DOCUMENT_BYTES if key.endswith((".json", ".next")) else _MOST_BYTES
        if not stat.S_ISREG(status.st_mode) or status.st_size > most:
            kind = f"{status.st_size} bytes" if stat.S_ISREG(status.st_mode) else "something else"
            raise CacheError(
                f"object '{key}' cannot be read: it must be a plain file of at most {most} bytes, "
                f"got {kind} (in {self.root}). Do not use this cache."
            )

    def _check_inside(self, path: Path) -> None:
        """Refuse a folder on the way that is a link: what is read has to lie in the cache."""
        folder = str(self.root)
        for part in path.relative_to(self.root).parts[:-1]:
            folder = f"{folder}{os.sep}{part}"
            try:
                status = os.lstat(folder)
            except (FileNotFoundError, NotADirectoryError):
                return
            # Windows has links that are none by their mode.
            if not stat.S_ISLNK(status.st_mode) and not getattr(status, "st_reparse_tag", 0):
                continue
            raise CacheError(
                f"objects must lie in the cache itself, got a link on the way to {path}. Copy the "
                "files instead of linking them."
            )

    def exists(self, key: str) -> bool:
        """Return whether there is such an object."""
        return self.path(key).is_file()

    def names(self, prefix: str) -> list[str]:
        """Return the names right under a folder, sorted, leaving out unfinished writes."""
        try:
            folder = self.path(prefix) if prefix else self.root
            names = [path.name for path in folder.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in names if not temporary_name(name))

    def walk(self, prefix: str = "") -> list[tuple[str, int]]:
        """Return (key, bytes) of every object under a folder, sorted by key."""
        top = self.path(prefix) if prefix else self.root
        self._check_inside(top / "any")
        found = []
        for folder, _, names in os.walk(top):
            base = Path(folder)
            for name in names:
                if temporary_name(name):
                    continue
                with contextlib.suppress(FileNotFoundError):  # Outgrown meanwhile.
                    size = (base / name).lstat().st_size
                    found.append(((base / name).relative_to(self.root).as_posix(), size))
        return sorted(found)

    def delete(self, key: str) -> None:
        """Remove an object if it is there."""
        try:
            self._check_inside(self.path(key))
            current_files().unlink(self.path(key))
        except FileNotFoundError:
            return
        except OSError as error:
            raise _refusal(error, key, self.root, "removed") from error

    def keep_names(self, prefix: str) -> None:
        """Make the names right under a folder durable: who gave them may have been killed."""
        folder = self.path(prefix) if prefix else self.root
        try:
            if folder.exists():
                current_files().sync_folder(folder)
        except OSError as error:
            raise _refusal(error, prefix, self.root) from error

    def protect(self, key: str) -> None:
        """Make an object read-only."""
        path = self.path(key)
        try:
            self._check_inside(path)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode) and mode & stat.S_IWUSR:
                current_files().protect(path)
        except (FileNotFoundError, PermissionError):  # Another user's, whose builder protects it.
            return
        except OSError as error:
            raise _refusal(error, key, self.root, "made read-only") from error

    def free_bytes(self) -> int:
        """Return the free space of the disk that holds, or will hold, the root."""
        folder = self.root
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def writing(self) -> AbstractContextManager[bool]:
        """Count among the cache's writers meanwhile; waits for who is alone."""
        return self._locked(shared=True)

    def alone(self) -> AbstractContextManager[bool]:
        """Yield whether nobody else writes the cache; nobody begins to meanwhile."""
        return self._locked(shared=False)

    def claim(self, name: str, *, wait: bool = False) -> AbstractContextManager[bool]:
        """Yield whether this work is ours; others are refused meanwhile, or wait."""
        return claimed(self.path(f"{_CLAIMS}/{name}"), wait=wait)

    def unfinished(self) -> list[str]:
        """Return what unfinished writes left behind, or are writing now."""
        return sorted(
            (Path(folder) / name).relative_to(self.root).as_posix()
            for folder, _, names in os.walk(self.root)
            for name in names
            if temporary_name(name) or Path(folder) == self.path(_CLAIMS)
        )

    def clean(self) -> list[str]:
        """Remove what unfinished writes left behind, and return it; only when `alone`."""
        left = self.unfinished()
        for key in left:
            self.delete(key)
        return left

    def _locked(self, *, shared: bool) -> AbstractContextManager[bool]:
        """Lock the cache's lock file, in a folder whose name is durable."""
        path = self.path(_LOCK)
        try:
            if not path.parent.exists():
                self._make_folders(path.parent)
        except OSError as error:
            raise _refusal(error, _LOCK, self.root) from error
        return locked(path, shared=shared)

    @contextlib.contextmanager
    def _temporary(self, key: str, data: bytes) -> Iterator[Path]:
        """Write synced bytes beside `key`; after the caller has named them, sync the folder."""
        files = current_files()
        path = self.path(key)
        self._check_inside(path)
        temporary = path.parent / f"{_TEMPORARY}{secrets.token_hex(8)}"
        try:
            self._make_folders(path.parent)
            try:
                files.write(temporary, data)
                files.sync(temporary)
                yield temporary
            finally:
                with contextlib.suppress(OSError):
                    if temporary.exists():
                        files.unlink(temporary)
            files.sync_folder(path.parent)
        except OSError as error:
            raise _refusal(error, key, self.root) from error

    def _make_folders(self, folder: Path) -> None:
        """Make a folder and those above it, and make their names durable.

        Also of one that is there: who made it may have been killed before its name was durable.
        """
        missing = []
        while not folder.exists() or (
            folder not in self._named and self.root in (folder, *folder.parents)
        ):
            missing.append(folder)
            folder = folder.parent
        for new in reversed(missing):
            if not new.exists():
                current_files().mkdir(new)
            current_files().sync_folder(new.parent)
            self._named.add(new)


def _refusal(error: OSError, key: str, root: Path, what: str = "written") -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"the disk is full: object '{key}' could not be written (in {root}). What was "
            "committed is safe; free some space and run the same command again."
        )
    return StorageError(f"object '{key}' could not be {what}: {error.strerror} (in {root}).")
