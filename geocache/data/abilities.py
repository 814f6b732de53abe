"""Try what a store's file system can do, in a folder that is removed again.

The commit protocol stands on renames that replace at once, links that never replace, and syncs.
Locks between processes only divide work and keep collectors away.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from geocache.data.files import current_files
from geocache.data.locks import locked

__all__ = ["Ability", "try_abilities"]

_TRY_LOCK = """
import fcntl, sys
with open(sys.argv[1]) as file:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(7)
"""
_REFUSED = 7


@dataclass(frozen=True)
class Ability:
    """Something a file system should be able to do."""

    what: str
    works: bool
    needed: bool
    """Whether caches are unsafe without it, not only less convenient."""
    remedy: str


def try_abilities(store: Path) -> list[Ability]:
    """Try a store's file system; OSError where not even a folder can be made in it."""
    tries: tuple[tuple[str, Callable[[Path], bool], bool, str], ...] = (
        ("rename replaces a file at once", _rename, True, "Use another disk for the store."),
        (
            "a link never replaces a file",
            _link,
            True,
            "Receipts need hard links: use another disk for the store.",
        ),
        ("files and folders can be synced", _sync, True, "Use another disk for the store."),
        (
            "locks hold between processes",
            _lock,
            False,
            "Builders may do work twice, and run gc and rm only while nobody builds.",
        ),
        (
            "names differ by case",
            _case,
            False,
            "Layers whose names differ only by case must not share a cache.",
        ),
        (
            "names may have 200 letters",
            _long,
            False,
            "Layers with long names cannot be stored here; use another disk for the store.",
        ),
    )
    found = []
    for what, attempt, needed, remedy in tries:
        with _folder(store) as folder:
            try:
                works = attempt(folder)
            except OSError:
                works = False
        found.append(Ability(what, works, needed, remedy))
    return found


@contextmanager
def _folder(store: Path) -> Iterator[Path]:
    folder = store / f".doctor-{secrets.token_hex(8)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _rename(folder: Path) -> bool:
    files = current_files()
    files.write(folder / "old", b"1")
    files.write(folder / "new", b"2")
    files.rename(folder / "new", folder / "old")
    return files.read(folder / "old") == b"2" and not (folder / "new").exists()


def _link(folder: Path) -> bool:
    files = current_files()
    files.write(folder / "one", b"1")
    files.write(folder / "two", b"2")
    files.link(folder / "one", folder / "name")
    try:
        files.link(folder / "two", folder / "name")
    except FileExistsError:
        return files.read(folder / "name") == b"1"
    return False


def _sync(folder: Path) -> bool:
    files = current_files()
    files.write(folder / "file", b"1")
    files.sync(folder / "file")
    files.sync_folder(folder)
    return True


def _lock(folder: Path) -> bool:
    path = folder / "lock"
    with locked(path, shared=False):
        command = [sys.executable, "-I", "-S", "-c", _TRY_LOCK, str(path)]
        with contextlib.suppress(subprocess.SubprocessError):
            child = subprocess.run(command, capture_output=True, timeout=60, check=False)
            return child.returncode == _REFUSED
    return False


def _case(folder: Path) -> bool:
    (folder / "name").touch()
    return not (folder / "NAME").exists()


def _long(folder: Path) -> bool:
    name = folder / ("x" * 200)
    name.touch()
    return name.exists()
