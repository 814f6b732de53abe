"""Find caches: a store is a folder of caches, each in a folder named by the front of its key."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from geocache.data.objects import LocalObjects
from geocache.errors import CacheError, ConfigError

__all__ = ["CacheEntry", "cache_folder", "find_cache", "list_caches", "store_root"]

_NAME_LENGTH = 20
_SUFFIX = ".zarr"


@dataclass(frozen=True)
class CacheEntry:
    """A cache in a store."""

    key: str
    path: Path


def store_root(store: str | Path | None = None) -> Path:
    """Return the store's folder: the argument, else GEOCACHE_STORE, else the user's cache folder.

    Raises ConfigError for an address that is not a folder.
    """
    chosen = str(store or os.environ.get("GEOCACHE_STORE") or "")
    if "://" in chosen:
        raise ConfigError(f"--store must be a folder, got '{chosen}'. Give a local path.")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(platformdirs.user_cache_dir("geocache")) / "store"


def cache_folder(store: Path, key: str) -> Path:
    """Return the folder of the cache with this key."""
    return store / f"{key[:_NAME_LENGTH]}{_SUFFIX}"


def list_caches(store: Path) -> list[CacheEntry]:
    """Return the caches of a store, sorted by key; folders that are none are passed over."""
    entries = []
    for path in sorted(store.glob(f"*{_SUFFIX}")) if store.is_dir() else []:
        key = _key_of(path)
        if key:
            entries.append(CacheEntry(key, path))
    return entries


def find_cache(which: str | Path, store: str | Path | None = None) -> Path:
    """Return the folder of a cache given by path or by the first letters of its key.

    Raises CacheError when nothing, or more than one cache, fits; it lists what the store holds.
    """
    path = Path(which).expanduser()
    if _key_of(path):
        return path.absolute()
    root = store_root(store)
    entries = list_caches(root)
    hits = [e for e in entries if len(str(which)) >= 4 and e.key.startswith(str(which))]
    if len(hits) == 1:
        return hits[0].path
    if hits:
        keys = ", ".join(e.key[: len(str(which)) + 4] for e in hits)
        raise CacheError(
            f"cache '{which}' must be unique, got {keys} (in {root}). Give more of it."
        )
    held = ", ".join(e.key[:12] for e in entries[:8]) or "no caches"
    raise CacheError(
        f"cache '{which}' must be a folder or the first letters (4 or more) of a key, and nothing "
        f"fits (in {root}, which holds {held}). `geocache ls` lists them."
    )


def _key_of(path: Path) -> str | None:
    """Return the key of the cache in a folder, or None when there is none."""
    objects = LocalObjects(path)
    if not objects.exists("zarr.json"):
        return None
    try:
        key = json.loads(objects.get("zarr.json"))["attributes"]["geocache"]["key"]
    except (ValueError, KeyError, TypeError):
        return None
    return str(key)
