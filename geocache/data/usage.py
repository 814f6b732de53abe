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

__all__ = ["STAMP", "last_used_s", "stamp_used"]

STAMP = "meta/used"
_AGAIN_S = 3600.0


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


def last_used_s(folder: Path) -> float:
    """Return when a cache was last used or written, in seconds since 1970: its newest file."""
    newest = 0.0
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                newest = max(newest, (Path(where) / name).lstat().st_mtime)
    return newest
