"""Find caches: a store is a folder, or a prefix of a bucket, that holds caches by their key."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from geocache.data.objects import Address, open_objects
from geocache.errors import CacheError, ConfigError, StorageError

__all__ = ["CacheEntry", "cache_folder", "find_cache", "list_caches", "store_root"]

_NAME_LENGTH = 20
_SUFFIX = ".zarr"
_SCHEMES = ("s3://",)


@dataclass(frozen=True)
class CacheEntry:
    """A cache in a store."""

    key: str
    path: Address


def store_root(store: Address | None = None) -> Address:
    """Return the store: the argument, else GEOCACHE_STORE, else the user's cache folder.

    Raises ConfigError for an address that is neither a folder nor a bucket.
    """
    chosen = str(store or os.environ.get("GEOCACHE_STORE") or "")
    if "://" in chosen:
        if not chosen.startswith(_SCHEMES):
            raise ConfigError(
                f"--store must be a folder or s3://BUCKET/PREFIX, got '{chosen}'. Give one of them."
            )
        return chosen.rstrip("/")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(platformdirs.user_cache_dir("geocache")) / "store"


def cache_folder(store: Address, key: str) -> Address:
    """Return where the cache with this key stands in a store."""
    name = f"{key[:_NAME_LENGTH]}{_SUFFIX}"
    return store / name if isinstance(store, Path) else f"{store}/{name}"


def list_caches(store: Address) -> list[CacheEntry]:
    """Return the caches of a store, sorted by key; folders that are none are passed over."""
    entries = []
    for name in open_objects(store).names(""):
        if name.endswith(_SUFFIX):
            path = cache_folder(store, name.removesuffix(_SUFFIX))
            key = _key_of(path)
            if key:
                entries.append(CacheEntry(key, path))
    return entries


def find_cache(which: Address, store: Address | None = None) -> Address:
    """Return where a cache stands that is given by its address or by the first letters of its key.

    Raises CacheError when nothing, or more than one cache, fits; it lists what the store holds.
    """
    path = which if "://" in str(which) else Path(which).expanduser().absolute()
    if _key_of(path):
        return path
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


def _key_of(path: Address) -> str | None:
    """Return the key of the cache at an address, or None when there is none."""
    try:
        objects = open_objects(path)
        if not objects.exists("zarr.json"):
            return None
        key = json.loads(objects.get("zarr.json"))["attributes"]["geocache"]["key"]
    except (ValueError, KeyError, TypeError, StorageError):
        return None
    return str(key)
