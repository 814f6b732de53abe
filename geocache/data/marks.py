"""Marks: what will have changed when an object's bytes have, for the price of asking its status.

Whoever replaces a file gives its name to another inode; whoever writes into one moves the time of
its last change (ctime), which no program can set back. Two doubts remain, and either leaves a file
without a mark. Clocks of file systems tick, the coarsest every two seconds: a file that changed
just before it was read may change again within the tick. And a file that changes while it is read
gives bytes of before and after.
"""

from __future__ import annotations

import os

__all__ = ["SETTLED_NS", "Mark", "mark_of"]

Mark = tuple[int | str | None, ...]
"""Equal marks of one name mean equal content; it says nothing of bits that decay in place."""

SETTLED_NS = 2 * 10**9
"""A file must have been left alone for so long before it is read, to have a mark."""


def mark_of(before: os.stat_result, after: os.stat_result, started_ns: int) -> Mark | None:
    """Return the mark of a file by its status before and after it was read, or None.

    started_ns: when the reading began, nanoseconds since 1970.
    """
    if os.name == "nt":  # There ctime is when the file was made: it tells no change.
        return None
    mark, then = _told(before), _told(after)
    return mark if mark == then and before.st_ctime_ns + SETTLED_NS < started_ns else None


def _told(status: os.stat_result) -> Mark:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
