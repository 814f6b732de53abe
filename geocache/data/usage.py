"""When a cache was last used: the modification time of an empty file beside its data.

It is outside every checksum and may be absent. Where it cannot be written (a read-only mount,
another user's cache, a bucket) the use goes unrecorded, and reading works all the same.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from geocache.data.objects import Address

__all__ = ["STAMP", "Usage", "size_and_use", "stamp_used"]

STAMP = "meta/used"
_AGAIN_S = 3600.0
_LOCK = "lock"
"""The lock file appears whenever somebody asks who writes; that is no use."""


def stamp_used(address: Address) -> None:
    """Note that a cache is used now, at most once an hour; failures are passed over."""
    if "://" in str(address):
        return
    stamp = Path(address) / STAMP
    with contextlib.suppress(OSError):
        if stamp.parent.is_symlink():  # What is stamped must be in the cache itself.
            return
        try:
            if abs(time.time() - stamp.lstat().st_mtime) >= _AGAIN_S:
                os.utime(stamp, follow_symlinks=False)
        except FileNotFoundError:
            os.close(os.open(stamp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))


class Usage:
    """One process's use of a cache: stamped at once, and again while it goes on for hours."""

    def __init__(self, address: Address) -> None:
        """Stamp the cache at an address."""
        self.address = address
        self._stamp()

    def renew(self) -> None:
        """Stamp again if the last time is an hour ago."""
        if time.monotonic() - self.renewed_s >= _AGAIN_S:
            self._stamp()

    def _stamp(self) -> None:
        self.renewed_s = time.monotonic()
        stamp_used(self.address)


def size_and_use(folder: Path) -> tuple[int, float]:
    """Return a cache's bytes, and when it was last used or written: its newest file's time.

    The time is in seconds since 1970.
    """
    n_bytes, newest = 0, 0.0
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                status = (Path(where) / name).lstat()
                n_bytes += status.st_size
                if name != _LOCK:
                    newest = max(newest, status.st_mtime)
    return n_bytes, newest
