"""Durable objects in a folder: the only place where a cache's bytes touch the disk.

An object is written to a temporary name beside its own, synced, renamed, and its folder synced: at
any moment it is there whole or not at all, and once `put` returns it survives a power cut. `create`
never replaces. Everything above this layer can be pointed at another one with the same five verbs.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from geocache.errors import CacheError, StorageError

__all__ = ["LocalObjects"]

_TEMPORARY = ".tmp-"


class LocalObjects:
    """Objects under a root folder, named by `/`-separated keys."""

    def __init__(self, root: Path) -> None:
        """Use `root`; it is made when the first object is written."""
        self.root = root

    def path(self, key: str) -> Path:
        """Return the file of an object."""
        return self.root.joinpath(*key.split("/"))

    def put(self, key: str, data: bytes) -> None:
        """Write an object durably, replacing an old one; StorageError when the disk refuses."""
        with self._temporary(key, data) as temporary:
            temporary.replace(self.path(key))

    def create(self, key: str, data: bytes) -> bool:
        """Write an object durably unless it exists; return whether this call wrote it."""
        with self._temporary(key, data) as temporary:
            try:
                os.link(temporary, self.path(key))
            except FileExistsError:
                return False
            return True

    def get(self, key: str) -> bytes:
        """Return an object's bytes; raise CacheError when it is missing or cannot be read."""
        try:
            return self.path(key).read_bytes()
        except FileNotFoundError:
            raise CacheError(
                f"object '{key}' must exist, but it is missing (in {self.root}). "
                "Build the cache again to restore it."
            ) from None
        except OSError as error:
            raise CacheError(f"object '{key}' cannot be read: {error} (in {self.root}).") from None

    def exists(self, key: str) -> bool:
        """Return whether there is such an object."""
        return self.path(key).is_file()

    def list(self, prefix: str) -> list[str]:
        """Return the names right under a folder, sorted, leaving out unfinished writes."""
        try:
            names = [path.name for path in self.path(prefix).iterdir()]
        except FileNotFoundError:
            return []
        return sorted(name for name in names if not name.startswith(_TEMPORARY))

    def delete(self, key: str) -> None:
        """Remove an object if it is there."""
        self.path(key).unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Return the free space of the disk that holds, or will hold, the root."""
        folder = self.root
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    @contextlib.contextmanager
    def _temporary(self, key: str, data: bytes) -> Iterator[Path]:
        """Write synced bytes beside `key`; after the caller has named them, sync the folder."""
        path = self.path(key)
        temporary = path.parent / f"{_TEMPORARY}{secrets.token_hex(8)}"
        try:
            _make_folders(path.parent)
            try:
                with temporary.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                yield temporary
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
            _sync_folder(path.parent)
        except OSError as error:
            raise _refusal(error, key, self.root) from error


def _refusal(error: OSError, key: str, root: Path) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"the disk is full: object '{key}' could not be written (in {root}). What was "
            "committed is safe; free some space and run the same command again."
        )
    return StorageError(f"object '{key}' could not be written: {error.strerror} (in {root}).")


def _make_folders(folder: Path) -> None:
    """Make a folder and its parents, syncing the parent of each new one."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        _sync_folder(new.parent)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open folders; NTFS journals the names by itself.
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
