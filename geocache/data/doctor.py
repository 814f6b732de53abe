"""Look a store over: can it be used, what do its caches lack, what lies around.

Nothing is changed, except that a folder comes and goes in the store while its file system is tried.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

from geocache.data.abilities import try_abilities
from geocache.data.cache import Cache, target_name
from geocache.data.catalog import list_caches
from geocache.data.digests import memory_path
from geocache.data.finding import Finding
from geocache.data.labels import read_label
from geocache.data.leftovers import find_leftovers
from geocache.data.removal import abandoned_trash, being_written
from geocache.errors import GeocacheError

__all__ = ["check_caches", "check_digests", "check_store"]

_LITTLE = 2 * 10**9


def check_store(store: Path) -> list[Finding]:
    """Return findings on a store's folder, its free space and its file system."""
    if not store.exists():
        return [_creatable(store)]
    if not store.is_dir():
        return [Finding("store", "problem", f"{store} is no folder", "Choose another --store.")]
    found = [_free(store)]
    try:
        abilities = try_abilities(store)
    except OSError as error:
        text = f"{store} cannot be written: {error.strerror}"
        remedy = "Training from it works. To build into it, check who may write there."
        return [Finding("store", "warning", text, remedy), *found]
    found += [
        Finding("file system", "ok", a.what)
        if a.works
        else Finding(
            "file system", "problem" if a.needed else "warning", f"not so: {a.what}", a.remedy
        )
        for a in abilities
    ]
    return [Finding("store", "ok", f"{store} can be read and written"), *found, *_trash(store)]


def _creatable(store: Path) -> Finding:
    parent = store.parent
    while not parent.exists():
        parent = parent.parent
    if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
        return Finding("store", "ok", f"{store} does not exist yet; the first build makes it")
    remedy = f"Check who may write in {parent}, or choose another --store."
    return Finding("store", "problem", f"{store} does not exist and cannot be made", remedy)


def _free(store: Path) -> Finding:
    free = shutil.disk_usage(store).free
    text = f"{free / 1e9:.1f} GB"
    if free < _LITTLE:
        return Finding("free space", "warning", text, "Free some, or see `geocache gc`.")
    return Finding("free space", "ok", text)


def _trash(store: Path) -> list[Finding]:
    trash = abandoned_trash(store)
    if not trash:
        return []
    text = f"{len(trash)} removals were cut off"
    return [Finding("store", "warning", text, "`geocache gc --delete` ends them.")]


def check_caches(store: Path) -> list[Finding]:
    """Return findings on every cache of a store, also on those that cannot be read."""
    if not store.is_dir():
        return []
    listed = {Path(entry.path) for entry in list_caches(store)}
    folders = sorted(path for path in store.iterdir() if path.name.endswith(".zarr"))
    found = []
    for folder in folders:
        if folder in listed:
            found += _cache(folder)
        else:
            text = "no cache can be read here"
            remedy = f"Build it again, or remove the folder {folder}."
            found.append(Finding(f"cache {folder.name}", "problem", text, remedy))
    return found


def _cache(folder: Path) -> list[Finding]:
    what = f"cache {folder.name[:12]}"
    try:
        return _of_cache(Cache(folder), folder, what)
    except GeocacheError as error:
        remedy = f"`geocache verify {folder}` shows what is damaged, and --repair restores it."
        return [Finding(what, "problem", " ".join(str(error).split()), remedy)]


def _of_cache(cache: Cache, folder: Path, what: str) -> list[Finding]:
    label = read_label(cache.objects)
    busy = being_written(folder)
    partial = [
        f"{target_name(path)} {built:,} of {layout.n_rows:,} rows"
        for path, layout in cache.layouts.items()
        if (built := cache.n_built(target_name(path))) < layout.n_rows
    ]
    text = ", ".join(
        part
        for part in (
            label.name if label.name else "",
            "a link" if folder.is_symlink() else "",
            "somebody writes it" if busy else "",
            f"partial: {'; '.join(partial[:3])}" if partial else "complete",
        )
        if part
    )
    found = [Finding(what, "ok", text)]
    if label.damaged:
        remedy = f"Give it a new one: `geocache name {cache.key[:12]} NAME`."
        found.append(Finding(what, "warning", "its label is damaged, so it is pinned", remedy))
    left = [] if busy else find_leftovers(cache)
    if left:
        text = f"{len(left)} leftovers of interrupted builds"
        remedy = "The next build or `geocache gc --delete` removes them."
        found.append(Finding(what, "warning", text, remedy))
    return found


def check_digests() -> list[Finding]:
    """Return a finding on the memory of file digests."""
    path = memory_path()
    what = "digest memory"
    if not path.exists():
        return [Finding(what, "ok", f"none yet ({path})")]
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            (n_files,) = connection.execute("SELECT COUNT(*) FROM files").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        answer, n_files = str(error), 0
    if answer != "ok":
        text = f"{answer} ({path})"
        return [Finding(what, "warning", text, "Delete the file; it comes again by itself.")]
    return [Finding(what, "ok", f"{n_files:,} files ({path})")]
