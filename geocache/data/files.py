"""The few calls through which a cache's bytes reach a file system, gathered in one seam.

Everything durable that geocache does is a sequence of these calls. Tests put another layer in
their place that stops, fails or forgets at each call in turn.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from geocache.data.marks import Mark, mark_of

__all__ = ["Files", "current_files", "using_files"]


class Files:
    """The real file system."""

    def read(self, path: Path) -> bytes:
        """Return a file's bytes; a symbolic link is not followed."""
        return self.read_marked(path)[0]

    def read_marked(self, path: Path) -> tuple[bytes, Mark | None]:
        """Return a file's bytes, and the mark of what was read; a symbolic link is not followed."""
        started_ns = self.now_ns()
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(descriptor, "rb") as file:
            before = os.fstat(descriptor)
            data = file.read()
            return data, mark_of(before, os.fstat(descriptor), started_ns)

    def now_ns(self) -> int:
        """Return the time by which files are judged as settled, nanoseconds since 1970."""
        return time.time_ns()

    def write(self, path: Path, data: bytes) -> None:
        """Create a file with these bytes; they may still be in memory only."""
        with path.open("xb") as file:
            file.write(data)

    def sync(self, path: Path) -> None:
        """Bring a file's bytes to the disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file its name, replacing another of that name at once."""
        old.replace(new)

    def link(self, old: Path, new: Path) -> None:
        """Give a file a second name; FileExistsError where that name is taken."""
        os.link(old, new)

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        path.unlink()

    def mkdir(self, path: Path) -> None:
        """Make a folder; one that is there is fine."""
        path.mkdir(exist_ok=True)

    def sync_folder(self, path: Path) -> None:
        """Bring a folder's names to the disk."""
        if os.name == "nt":  # Windows cannot open folders; NTFS journals the names by itself.
            return
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def protect(self, path: Path) -> None:
        """Make a file read-only."""
        path.chmod(0o444)


_current = Files()


def current_files() -> Files:
    """Return the layer in use."""
    return _current


@contextmanager
def using_files(files: Files) -> Iterator[Files]:
    """Use another layer in this process meanwhile, also in what is opened before."""
    global _current
    before, _current = _current, files
    try:
        yield files
    finally:
        _current = before
