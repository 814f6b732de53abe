"""Locks between processes that share a folder: a lock dies with its holder.

Locks are advisory `flock`s on small files, so a builder that was killed blocks nobody, also on
network file systems whose locks reach all machines. They divide work, they let one writer at a time
replace an object that counts already, and they keep collectors away from a cache that is being
written: where there are no locks, nobody is ever alone, and nothing is collected.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows: every claim is granted, and work may be done twice.
    fcntl = None

__all__ = ["claimed", "locked"]

_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


@contextmanager
def locked(path: Path, *, shared: bool) -> Iterator[bool]:
    """Hold a lock file, and yield whether it is held.

    Shared, it waits for whoever holds it alone, which is never for long, and is held without a lock
    where there can be none; alone, it is had at once or not at all. The file stays; where its
    folder was moved away meanwhile, it is taken anew.
    """
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, _FLAGS, 0o666)
        except OSError:
            yield shared
            return
        held = _lock(descriptor, shared=shared, wait=shared, otherwise=shared)
        if not held or _still_named(descriptor, path):
            break
        os.close(descriptor)
    try:
        yield held
    finally:
        os.close(descriptor)


@contextmanager
def claimed(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a file that exists only while it is held, and yield whether it could be had.

    wait: for the one who holds it. Where there can be no lock, everybody has it.
    """
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, _FLAGS, 0o666)
        except OSError:
            yield True
            return
        if not _lock(descriptor, shared=False, wait=wait, otherwise=True):
            os.close(descriptor)
            yield False
            return
        if _still_named(descriptor, path):
            break
        os.close(descriptor)  # Its last holder removed the name before we had the lock.
    try:
        yield True
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _lock(descriptor: int, *, shared: bool, wait: bool, otherwise: bool) -> bool:
    """Return whether the lock is held; `otherwise` where the file system has none."""
    if fcntl is None:
        return otherwise
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return otherwise
    return True


def _still_named(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
