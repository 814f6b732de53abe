"""The steps that faults disturb, how they end undisturbed, and what a reader may see meanwhile."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from worlds import contents, images, parse

from geocache.data.cache import Cache
from geocache.data.datasets import open_dataset
from geocache.data.layout import ArrayLayout, Group
from geocache.data.receipts import Receipts
from geocache.data.sealed import unseal
from geocache.errors import CacheError, MissingTargetError
from geocache.pipeline.build import BuildReport, BuildRequest, build

TARGETS = ("logits", "mst@stage1", "affinity:radius=2@stage1", "pooled@stage2")
N_ROWS = 20
SCENARIOS: dict[str, tuple[dict[str, Any] | None, dict[str, Any]]] = {
    "a new cache": (None, {}),
    "more targets": ({"targets": ("logits",)}, {}),
    "more rows": ({"limit": 7}, {}),
    "corrected labels": ({}, {"data": {"relabel": 3}}),
}
"""By name: what is built before, and the step itself."""

Truth = dict[str, np.ndarray]
"""The rows of every array of a cache by its path."""


def tiny_build(store: Path, **changes: Any) -> BuildReport:
    """Build a cache of 20 images of 8 x 8, serially, in one thread."""
    test = {"n": 5, **changes.pop("test", {})}
    fields: dict[str, Any] = {
        "dataset": images(**{"n": N_ROWS, **changes.pop("data", {})}),
        "evaluation": open_dataset("tiny_world:images", split="test", options=test),
        "model": "tiny_world:teacher",
        "targets": parse(*changes.pop("targets", TARGETS)),
        "store": store,
        "executor": "serial",
        "n_threads": 1,
        **changes,
    }
    return build(BuildRequest(**fields))


@dataclass(frozen=True)
class Prepared:
    """A scenario, undisturbed."""

    name: str
    before: Path
    """The store before the step; it may be empty."""
    cache_name: str
    after: dict[str, bytes]
    """Every file of the cache after the step, but for the lock."""
    truths: tuple[Truth, ...]
    """What rows may be: as before the step, or as after it."""

    def start(self, store: Path) -> Path:
        """Make a store as it is before the step; return where its cache stands or will."""
        shutil.copytree(self.before, store)
        return store / self.cache_name

    def step(self, store: Path) -> BuildReport:
        """Take the step."""
        return tiny_build(store, **SCENARIOS[self.name][1])


def prepare(name: str, folder: Path) -> Prepared:
    """Take a scenario's step undisturbed."""
    first, then = SCENARIOS[name]
    before, after = folder / "before", folder / "after"
    before.mkdir(parents=True)
    truths = []
    if first is not None:
        truths.append(truth(tiny_build(before, **first).path))
    shutil.copytree(before, after)
    report = tiny_build(after, **then)
    assert report.failures == ()
    truths.append(truth(report.path))
    return Prepared(name, before, report.path.name, files(report.path), tuple(truths))


def files(path: Path) -> dict[str, bytes]:
    """Return every file of a cache but its lock."""
    return {name: data for name, data in contents(path).items() if name != "meta/lock"}


def truth(path: Path) -> Truth:
    """Return the rows of every array of a cache, as far as they are built."""
    cache = Cache(path)
    return {
        name: cache.read_array(name, 0, Receipts(cache.objects).front(layout))
        for name, layout in cache.layouts.items()
    }


def check_readers(path: Path, truths: tuple[Truth, ...]) -> None:
    """Assert that every committed row reads as one of the truths, and that others are refused."""
    if not (path / "zarr.json").exists():
        return
    cache = Cache(path)
    for name, layout in cache.layouts.items():
        held = cache.receipts(layout)
        for group in layout.groups():
            n_rows = held.get((0, group.index), 0)
            rows = cache.read_array(name, group.start, group.start + n_rows)
            _check_rows(name, group.start, rows, truths)
            if group.start + n_rows < group.stop:
                with contextlib.suppress(MissingTargetError):
                    rows = cache.read_array(name, group.start, group.stop)
                    # Not refused: then a builder has committed them since the list was made.
                    assert cache.receipts(layout)[0, group.index] == group.stop - group.start
                    _check_rows(name, group.start, rows, truths)


def _check_rows(name: str, start: int, rows: np.ndarray, truths: tuple[Truth, ...]) -> None:
    assert len(rows) == 0 or any(
        np.array_equal(rows, known[name][start : start + len(rows)])
        for known in truths
        if name in known
    ), f"{name} rows from {start} are wrong"


def committed(path: Path) -> dict[str, tuple[int, int]]:
    """Return when each object that counts for good was written, and as which file."""
    if not (path / "zarr.json").exists():
        return {}
    cache, stamps = Cache(path), {}
    for name, layout in cache.layouts.items():
        for group in layout.groups():
            whole = cache.receipts(layout).get((0, group.index), 0) == group.stop - group.start
            if whole and not name.endswith("labels") and _counted(path, layout, group):
                stat = (path / layout.object_key(group)).stat()
                stamps[layout.object_key(group)] = (stat.st_mtime_ns, stat.st_ino)
    return stamps


def _counted(path: Path, layout: ArrayLayout, group: Group) -> bool:
    """Return whether a group's receipt is whole and describes the object that stands there."""
    key = layout.object_key(group)
    try:
        receipt = unseal((path / layout.receipt_key(group)).read_bytes(), "receipt")
        found = hashlib.sha256((path / key).read_bytes()).hexdigest()
    except (CacheError, FileNotFoundError):
        return False
    return bool(receipt["objects"][key]["sha256"] == found)


def in_child(work: Callable[[], object]) -> int:
    """Run something in a fork of this warm process; return its wait status, 0 when it worked."""
    with warnings.catch_warnings():
        # The other threads of this process are idle; torch runs in one thread.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]
