"""Find caches: a store is a folder, or a prefix of a bucket, that holds caches by their key.

A cache's folder may be a link to one on another disk; nothing inside a cache may be a link.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from geocache.data.labels import Label, check_name, read_label, write_label
from geocache.data.locks import locked
from geocache.data.objects import Address, open_objects
from geocache.data.sealed import parse_json
from geocache.errors import CacheError, ConfigError

__all__ = [
    "CacheEntry",
    "cache_folder",
    "entry_at",
    "find_cache",
    "is_cache",
    "label_cache",
    "list_caches",
    "store_of",
    "store_root",
]

_NAME_LENGTH = 20
_SUFFIX = ".zarr"
_SHORTEST = 4
_KEY = re.compile(r"[0-9a-z]{16,128}")
_NAMING = ".naming"
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


def is_cache(which: Address) -> bool:
    """Return whether a cache stands at an address."""
    return _key_of(_address(which)) is not None


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


def entry_at(path: Address) -> CacheEntry:
    """Return the entry of the cache at an address; CacheError when there is none."""
    key = _key_of(path)
    if key is None:
        raise CacheError(f"folder must hold a geocache cache, got none ({path}).")
    return CacheEntry(key, path)


def find_cache(which: Address, store: Address | None = None) -> Address:
    """Return where a cache stands that is given by its address, name or first letters of its key.

    Raises CacheError when nothing, or more than one cache, fits; it lists what the store holds.
    """
    path = _address(which)
    if _key_of(path):
        return path
    root = store_root(store)
    entries = list_caches(root)
    hits = [e for e in entries if _fits(e, str(which))]
    if len(hits) == 1:
        return hits[0].path
    if hits:
        keys = ", ".join(e.key[: len(str(which)) + 4] for e in hits)
        raise CacheError(
            f"cache '{which}' must be unique, got {keys} (in {root}). Give more of its key."
        )
    held = ", ".join(e.key[:12] for e in entries[:8]) or "no caches"
    raise CacheError(
        f"cache '{which}' must be a folder, a name or the first letters (4 or more) of a key, and "
        f"nothing fits (in {root}, which holds {held}). `geocache ls` lists them."
    )


def _fits(entry: CacheEntry, which: str) -> bool:
    if len(which) >= _SHORTEST and entry.key.startswith(which):
        return True
    return read_label(open_objects(entry.path)).name == which


def store_of(path: Address) -> Address:
    """Return the store that a cache stands in."""
    return path.parent if isinstance(path, Path) else path.rstrip("/").rpartition("/")[0]


def label_cache(path: Address, label: Label) -> None:
    """Give a cache its name, note and pin.

    Raises ConfigError for what a label must not hold and CacheError when another cache of the store
    has that name, or a key that begins with it; StorageError when the store cannot be written.
    """
    root = store_of(path)
    if label.name is None:
        write_label(open_objects(path), label)
        return
    check_name(label.name)
    with _naming(root):
        for entry in list_caches(root):
            if _same(entry.path, path):
                continue
            other = read_label(open_objects(entry.path)).name
            if (other or "").casefold() == label.name.casefold():
                raise CacheError(
                    f"name '{label.name}' must be one cache's only, got cache {entry.key[:12]} "
                    f"with the name '{other}' (in {root}). Choose another."
                )
            if entry.key.startswith(label.name.lower()):
                raise CacheError(
                    f"name '{label.name}' must not begin another cache's key, got {entry.key[:12]} "
                    f"(in {root}). Choose another."
                )
        write_label(open_objects(path), label)


@contextmanager
def _naming(root: Address) -> Iterator[None]:
    """Give names one process at a time, where the store is a folder."""
    if not isinstance(root, Path):
        yield
        return
    with locked(root / _NAMING, shared=False) as held:
        if not held:
            raise CacheError(
                f"another process must finish naming a cache first (in {root}). Run it again."
            )
        yield


def _same(one: Address, other: Address) -> bool:
    if isinstance(one, Path) and isinstance(other, Path):
        return one.samefile(other)
    return one == other


def _address(which: Address) -> Address:
    return which if "://" in str(which) else Path(which).expanduser().absolute()


def _key_of(path: Address) -> str | None:
    """Return the key of the cache at an address, or None when there is none."""
    try:
        key = parse_json(open_objects(path).get("zarr.json"))["attributes"]["geocache"]["key"]
    except (ValueError, KeyError, TypeError):
        return None
    return key if isinstance(key, str) and _KEY.fullmatch(key) else None
