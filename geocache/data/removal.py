"""Take a cache out of its store: it vanishes at once, then its files go.

The folder is renamed while nobody writes it, and what a rename leaves to delete is found again by
its name if the deletion is cut off. A reader that has the cache open meanwhile gets an error that
names the missing object.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from geocache.data.files import current_files
from geocache.data.objects import Address, LocalObjects
from geocache.data.usage import size_and_use
from geocache.errors import CacheError, ConfigError, StorageError

__all__ = ["abandoned_trash", "being_written", "local_folder", "remove_cache", "remove_trash"]

_TRASH = re.compile(r"\.trash-[0-9a-z]+-[0-9a-f]{16}")


def local_folder(address: Address, what: str) -> Path:
    """Return the folder at an address; ConfigError for a bucket, whose writers are not known."""
    if isinstance(address, Path):
        return address
    raise ConfigError(
        f"{what} must be given a folder, got '{address}': who else uses a bucket cannot be known. "
        "Delete in it with the tools of its provider."
    )


def being_written(folder: Path) -> bool:
    """Return whether somebody writes the cache now; nothing is changed by asking."""
    if not (folder / "meta" / "lock").exists():
        return False
    with LocalObjects(folder).alone() as alone:
        return not alone


def remove_cache(
    folder: Path, key: str, unless: Callable[[], str | None] = lambda: None
) -> tuple[int, str | None]:
    """Remove a cache that nobody writes; return (bytes freed, None), or (0, why it was kept).

    unless: asked while nobody else can begin to write; a reason keeps the cache. Raises
    StorageError when the disk refuses.
    """
    if folder.is_symlink():
        raise CacheError(
            f"cache must stand in the store itself to be removed, got a link to {folder.resolve()} "
            f"({folder}). Remove that one, then the link."
        )
    if not (folder / "zarr.json").exists():  # Asking for its lock would make the folder anew.
        return 0, "somebody else removed it"
    trash = folder.parent / f".trash-{key[:20]}-{secrets.token_hex(8)}"
    with LocalObjects(folder).alone() as alone:
        why = unless() if alone else "it is being written"
        if why is not None:
            return 0, why
        n_bytes, _ = size_and_use(folder)
        try:
            current_files().rename(folder, trash)
        except OSError as error:
            raise StorageError(
                f"store must let caches be removed, got: {error.strerror} ({folder}). Check who "
                "may write there."
            ) from None
    remove_trash(trash)
    return n_bytes, None


def abandoned_trash(store: Path) -> list[Path]:
    """Return what removals that were cut off left in a store."""
    if not store.is_dir():
        return []
    found = [path for path in store.iterdir() if _TRASH.fullmatch(path.name)]
    return sorted(path for path in found if path.is_dir() and not path.is_symlink())


def remove_trash(trash: Path) -> int:
    """Delete a folder that a removal renamed; return its bytes. StorageError when some stays."""
    n_bytes, _ = size_and_use(trash)
    if os.name == "nt":  # Windows deletes no read-only file.
        for path in trash.rglob("*"):
            path.chmod(0o666)
    shutil.rmtree(trash, ignore_errors=True)
    if trash.exists():
        raise StorageError(
            f"folder must be deleted, but some of it stays ({trash}). Check who may write there."
        )
    return n_bytes
