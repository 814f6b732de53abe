"""Stores with small caches of a chosen age, for what keeps and removes caches."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from geocache.data.catalog import cache_folder
from geocache.data.writer import CacheWriter, create_cache, small_layout

DAY = 86400.0
WRITER = """
import sys
from pathlib import Path
from geocache.data.objects import LocalObjects
with LocalObjects(Path(sys.argv[1])).writing() as held:
    print(held, flush=True)
    sys.stdin.readline()
"""


def make_cache(store: Path, letter: str, *, days: float = 0.0, n_rows: int = 50) -> Path:
    """Write a cache of labels whose files are all so old."""
    key = letter * 64
    folder = Path(cache_folder(store, key))
    about = {
        "key": key,
        "identity": {
            "format": 1,
            "teacher": {
                "model": "m",
                "options": {},
                "weights": "w",
                "mean": [0.5] * 3,
                "std": [0.2] * 3,
            },
            "data": {},
            "views": {},
        },
        "classes": ["a", "b"],
        "n_rows": n_rows,
        "image_shape": [8, 8, 3],
        "probe": [[1.0]],
    }
    create_cache(folder, about)
    rows = np.random.default_rng(ord(letter)).integers(0, 2, n_rows)
    CacheWriter(folder, {"device": "cpu"}).replace(small_layout("labels", rows), rows)
    age(folder, days)
    return folder


def age(folder: Path, days: float) -> None:
    """Make every file so old."""
    then = time.time() - days * DAY
    for path in folder.rglob("*"):
        os.utime(path, (then, then), follow_symlinks=False)


def every_file(store: Path) -> dict[str, tuple[bytes, int]]:
    """Return each file's bytes and time; folders as empty ones."""
    return {
        str(path.relative_to(store)): (
            path.read_bytes() if path.is_file() else b"",
            path.lstat().st_mtime_ns if path.is_file() else 0,
        )
        for path in sorted(store.rglob("*"))
    }


@contextmanager
def somebody_writes(folder: Path) -> Iterator[None]:
    """Hold the writers' lock of a cache in another process."""
    command = [sys.executable, "-c", WRITER, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        assert child.stdout.readline() == "True\n"
        try:
            yield
        finally:
            child.stdin.write("done\n")
            child.stdin.flush()
