"""SHA-256 of files' contents, remembered, so that a second call need not read the files again.

A digest is remembered under the file's path together with its size, modification time and change
time (the last catches a file replaced by one with a copied date). It stands in one SQLite file in
GEOCACHE_HOME or the user's cache folder, which several processes may use at once. A file that was
touched a moment ago is hashed but not remembered: a further write within the clock's grain would
not show. Where the memory fails (read-only, locked, damaged), every file is hashed, as without it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from geocache.errors import DataError, MissingDataError

__all__ = ["cache_home", "file_digests", "memory_path"]

CHUNK_FILES = 32
SLOW_FILE_S = 1e-4
READ_BYTES = 1 << 20
SETTLED_NS = 2_000_000_000
SCHEMA = """
CREATE TABLE IF NOT EXISTS folders (id INTEGER PRIMARY KEY, path BLOB UNIQUE NOT NULL);
CREATE TABLE IF NOT EXISTS files (folder INTEGER NOT NULL, name BLOB NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
    digest BLOB NOT NULL, PRIMARY KEY (folder, name)) WITHOUT ROWID;
"""
Stamp = tuple[int, int, int]
log = logging.getLogger(__name__)


def cache_home() -> Path:
    """Return the folder for what geocache remembers: GEOCACHE_HOME, or the user's cache folder."""
    import platformdirs

    home = os.environ.get("GEOCACHE_HOME")
    return Path(home).expanduser() if home else platformdirs.user_cache_path("geocache")


def memory_path() -> Path:
    """Return the file in which digests are remembered."""
    return cache_home() / "digests-1.sqlite3"


def file_digests(
    root: str | Path,
    names: Sequence[str],
    *,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
    settled_ns: int = SETTLED_NS,
) -> UInt8[np.ndarray, "n 32"]:
    """Return the SHA-256 of each file's bytes.

    Costs one stat a file that is remembered and one read of every other; memory beyond the result
    is that of one folder.

    Args:
        root: the folder that `names` are relative to.
        names: paths with `/` between their parts, those of one folder next to each other.
        threads: how many files are read at once where reading is slow; default four for each core,
            at most 32.
        progress: called after each folder with the number of files that are done.
        settled_ns: how long a file must have been left alone to be remembered, in nanoseconds.

    Raises MissingDataError for a file that is gone and DataError for one that cannot be read.
    """
    digests = np.empty((len(names), 32), np.uint8)
    done = 0
    workers = threads or min(32, 4 * (os.cpu_count() or 1))
    with _Hasher(workers) as hasher, _Memory() as memory:
        for parent, group in itertools.groupby(names, key=_parent):
            folder = os.path.abspath(os.path.join(root, parent))  # noqa: PTH100, PTH118
            skip = len(parent) + 1 if parent else 0
            files = [name[skip:] for name in group]
            out = digests[done : done + len(files)]
            _folder_digests(folder, files, out, memory, hasher, settled_ns)
            done += len(files)
            if progress:
                progress(done)
    return digests


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


def _folder_digests(
    folder: str,
    files: list[str],
    out: UInt8[np.ndarray, "n 32"],
    memory: _Memory,
    hasher: _Hasher,
    settled_ns: int,
) -> None:
    """Fill `out` with the digests of `files` in `folder`, and remember the new ones."""
    started_ns = time.time_ns()
    known = memory.recall(folder)
    paths = [f"{folder}{os.sep}{file}" for file in files]
    unknown = []
    for position, (file, path) in enumerate(zip(files, paths, strict=True)):
        remembered = known.get(os.fsencode(file))
        if remembered is not None and remembered[0] == _stamp_of(path):
            out[position] = np.frombuffer(remembered[1], np.uint8)
        else:
            unknown.append(position)

    fresh = []
    hashed = hasher.hash_files([paths[position] for position in unknown])
    for position, (stamp, digest) in zip(unknown, hashed, strict=True):
        out[position] = np.frombuffer(digest, np.uint8)
        if stamp is not None and started_ns - max(stamp[1:]) >= settled_ns:
            fresh.append((os.fsencode(files[position]), stamp, digest))
    memory.remember(folder, fresh)


class _Hasher:
    """Hash files one after the other as long as that is quick, and in threads from then on.

    Small files in the page cache take 15 us each, and threads would only fight for the interpreter
    lock (measured: 1.6 times slower). A cold disk, a network or large files need them.
    """

    def __init__(self, workers: int) -> None:
        self.pool = ThreadPoolExecutor(workers)
        self.threaded = False

    def __enter__(self) -> _Hasher:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def hash_files(self, paths: Sequence[str]) -> Iterator[tuple[Stamp | None, bytes]]:
        """Yield stamp and digest of each file, in order."""
        start = 0
        while start < len(paths) and not self.threaded:
            started = time.perf_counter()
            chunk = _hash_files(paths[start : start + CHUNK_FILES])
            self.threaded = time.perf_counter() - started > SLOW_FILE_S * len(chunk)
            start += CHUNK_FILES
            yield from chunk
        chunks = (paths[at : at + CHUNK_FILES] for at in range(start, len(paths), CHUNK_FILES))
        for chunk in self.pool.map(_hash_files, chunks):
            yield from chunk


def _hash_files(paths: Sequence[str]) -> list[tuple[Stamp | None, bytes]]:
    return [_hash_file(path) for path in paths]


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _stamp_of(path: str) -> Stamp | None:
    try:
        return _stamp(os.stat(path))  # noqa: PTH116
    except OSError:
        return None  # reading it will say why


def _hash_file(path: str) -> tuple[Stamp | None, bytes]:
    """Return a file's stamp, or None if it changed meanwhile, and the SHA-256 of its bytes."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            before = _stamp(os.fstat(file.fileno()))
            digest = hashlib.sha256()
            block_bytes = min(before[0] + 1, READ_BYTES)  # one read where a block holds the file
            while block := file.read(block_bytes):
                digest.update(block)
                if len(block) < block_bytes:
                    break
            after = _stamp(os.fstat(file.fileno()))
    except FileNotFoundError:
        raise MissingDataError(
            f"{path} must be there, but is gone since the folder was listed. Start again."
        ) from None
    except OSError as error:
        raise DataError(
            f"{path} must be a readable file, got {error.strerror}. Check its permissions."
        ) from error
    return (before if before == after else None), digest.digest()


class _Memory:
    """The remembered digests; without them (any SQLite or file error) it knows nothing."""

    def __init__(self) -> None:
        self.path = memory_path()
        self.connection: sqlite3.Connection | None = None

    def __enter__(self) -> _Memory:
        with self._tolerant():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.connection = sqlite3.connect(self.path, timeout=30.0)
            self.connection.executescript(SCHEMA)
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def recall(self, folder: str) -> dict[bytes, tuple[Stamp, bytes]]:
        """Return what is known of the files of `folder`, by name."""
        known: dict[bytes, tuple[Stamp, bytes]] = {}
        with self._tolerant():
            if self.connection is not None:
                rows = self.connection.execute(
                    "SELECT name, size, mtime_ns, ctime_ns, digest FROM files "
                    "WHERE folder = (SELECT id FROM folders WHERE path = ?)",
                    (os.fsencode(folder),),
                )
                known = {row[0]: (row[1:4], row[4]) for row in rows}
        return known

    def remember(self, folder: str, fresh: Sequence[tuple[bytes, Stamp, bytes]]) -> None:
        """Keep (name, stamp, digest) of files in `folder`, in one transaction."""
        with self._tolerant():
            if self.connection is not None and fresh:
                with self.connection:
                    self.connection.execute(
                        "INSERT OR IGNORE INTO folders (path) VALUES (?)", (os.fsencode(folder),)
                    )
                    self.connection.executemany(
                        "INSERT OR REPLACE INTO files SELECT id, ?, ?, ?, ?, ? FROM folders "
                        "WHERE path = ?",
                        (
                            (name, *stamp, digest, os.fsencode(folder))
                            for name, stamp, digest in fresh
                        ),
                    )

    @contextlib.contextmanager
    def _tolerant(self) -> Iterator[None]:
        """Go on without the memory if it fails, saying so once."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            log.warning(
                "File digests are not remembered: %s (%s). If it is damaged, delete it.",
                error,
                self.path,
            )
            self._close()

    def _close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None
