"""Decide which caches of a store may go, and let them go: least recently used first.

The decision is a pure function of what was found. Pinned caches, those that somebody writes or used
in the last hour, and links stay whatever the rules say.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from geocache.data.cache import Cache
from geocache.data.catalog import list_caches
from geocache.data.labels import read_label
from geocache.data.leftovers import find_leftovers, remove_leftovers
from geocache.data.objects import LocalObjects
from geocache.data.removal import abandoned_trash, being_written, remove_cache, remove_trash
from geocache.data.usage import size_and_use
from geocache.errors import CacheError

__all__ = ["Collection", "Held", "Leftover", "Rules", "Verdict", "choose", "collect", "look"]

_HOUR_S = 3600.0
DAY_S = 24 * _HOUR_S


@dataclass(frozen=True)
class Rules:
    """How long an unused cache stays, and how large the store may be."""

    older_than_s: float = 90 * DAY_S
    max_bytes: int | None = None


@dataclass(frozen=True)
class Held:
    """A cache as a collector sees it."""

    key: str
    path: Path
    n_bytes: int
    used_s: float
    """When it was last used or written, in seconds since 1970."""
    name: str | None = None
    pinned: bool = False
    busy: bool = False
    link: bool = False


@dataclass(frozen=True)
class Verdict:
    """Whether a cache goes, and why."""

    cache: Held
    remove: bool
    why: str


@dataclass(frozen=True)
class Leftover:
    """An object of a cache that stays, which nothing reads."""

    cache: str
    key: str
    n_bytes: int


@dataclass(frozen=True)
class Collection:
    """What a collection came to, or would."""

    deleted: bool
    verdicts: tuple[Verdict, ...]
    leftovers: tuple[Leftover, ...]
    trash: tuple[Path, ...]
    n_bytes: int
    """What is freed, or would be."""
    n_bytes_kept: int


def choose(caches: Sequence[Held], rules: Rules, now_s: float) -> list[Verdict]:
    """Return a verdict for each cache, least recently used first."""
    caches = sorted(caches, key=lambda cache: (cache.used_s, cache.key))
    verdicts = [_by_age(cache, rules, now_s) for cache in caches]
    if rules.max_bytes is None:
        return verdicts
    kept = sum(v.cache.n_bytes for v in verdicts if not v.remove)
    for position, verdict in enumerate(verdicts):
        cache = verdict.cache
        if kept > rules.max_bytes and not verdict.remove and _protected(cache, now_s) is None:
            why = "the store is too large, and it was used least recently"
            verdicts[position] = Verdict(cache, True, why)
            kept -= cache.n_bytes
    return verdicts


def _by_age(cache: Held, rules: Rules, now_s: float) -> Verdict:
    why = _protected(cache, now_s)
    if why is not None:
        return Verdict(cache, False, why)
    days = (now_s - cache.used_s) / DAY_S
    remove = now_s - cache.used_s > rules.older_than_s
    return Verdict(cache, remove, f"not used for {days:.0f} days" if days >= 1 else "used today")


def _protected(cache: Held, now_s: float) -> str | None:
    """Return why a cache stays whatever the rules say, or None."""
    if cache.pinned:
        return "pinned"
    if cache.busy:
        return "it is being written"
    if cache.link:
        return "a link"
    return "used in the last hour" if now_s - cache.used_s <= _HOUR_S else None


def look(path: Path, key: str) -> Held:
    """Return what a collector has to know of a cache; nothing is changed."""
    n_bytes, used_s = size_and_use(path)
    label = read_label(LocalObjects(path))
    return Held(
        key, path, n_bytes, used_s, label.name, label.pinned, being_written(path), path.is_symlink()
    )


def collect(
    store: Path, rules: Rules, *, delete: bool = False, now_s: float | None = None
) -> Collection:
    """Find what may go from a store, and remove it when told to delete.

    Raises StorageError when the disk refuses; what was removed until then is gone.
    """
    now_s = time.time() if now_s is None else now_s
    held = [look(Path(entry.path), entry.key) for entry in list_caches(store)]
    verdicts = choose(held, rules, now_s)
    trash = abandoned_trash(store)
    freed = sum(remove_trash(path) if delete else size_and_use(path)[0] for path in trash)
    done, leftovers = [], []
    for verdict in verdicts:
        if verdict.remove and delete:
            n_bytes, why = _remove(verdict.cache, now_s)
            freed += n_bytes
            verdict = replace(verdict, remove=why is None, why=why or verdict.why)
        elif verdict.remove:
            freed += verdict.cache.n_bytes
        if not verdict.remove:
            left = _leftovers(verdict.cache, delete=delete)
            freed += sum(leftover.n_bytes for leftover in left)
            leftovers += left
        done.append(verdict)
    kept = sum(v.cache.n_bytes for v in done if not v.remove)
    kept -= sum(leftover.n_bytes for leftover in leftovers)
    return Collection(delete, tuple(done), tuple(leftovers), tuple(trash), freed, kept)


def _remove(cache: Held, now_s: float) -> tuple[int, str | None]:
    """Remove a cache unless somebody pinned or used it since it was looked at."""

    def unless() -> str | None:
        used_s = size_and_use(cache.path)[1]
        pinned = read_label(LocalObjects(cache.path)).pinned
        return _protected(replace(cache, used_s=used_s, pinned=pinned), now_s)

    return remove_cache(cache.path, cache.key, unless)


def _leftovers(cache: Held, *, delete: bool) -> list[Leftover]:
    """Return the leftovers of a cache that nobody writes, removed when told."""
    if cache.busy or cache.link:
        return []
    try:
        opened = Cache(cache.path)
        keys = find_leftovers(opened)
        sizes = {key: (cache.path / key).lstat().st_size for key in keys}
        if delete and keys:
            with opened.objects.alone() as alone:
                keys = remove_leftovers(opened) if alone else []
    except (CacheError, FileNotFoundError):  # Damaged, or a builder has just begun.
        return []
    return [Leftover(cache.key, key, sizes.get(key, 0)) for key in keys]
