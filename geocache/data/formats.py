"""Versions of the cache format: which this library reads, and how older ones are brought up.

A cache says its version in its identity, and `readable_since`, the first geocache that reads it.
A change of format raises FORMAT_VERSION and adds one entry to SINCE and one to MIGRATIONS, which
turns the older version's root document into the newer one's as it is read. Arrays describe
themselves (chunks, codecs, dimension names), so they need no step of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from geocache.data.layout import FORMAT_VERSION
from geocache.errors import CacheError

__all__ = ["MIGRATIONS", "SINCE", "brought_up"]

SINCE: dict[int, str] = {1: "0.1.0"}
"""The first geocache that reads each version."""

MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""For each older version, what turns its root document into that of the next version."""


def brought_up(about: Mapping[str, Any], where: object) -> dict[str, Any]:
    """Return a cache's root document in today's form.

    Raises CacheError for a newer format, naming the geocache that reads it, and for an older one
    that nothing brings up; KeyError, TypeError or ValueError when there is no version at all.
    """
    version = int(about["identity"]["format"])
    if version > FORMAT_VERSION:
        reader = str(about.get("readable_since", ""))[:20] or "newer than this one"
        raise CacheError(
            f"cache format must be at most {FORMAT_VERSION}, got {version} ({where}). Read it "
            f"with geocache {reader}: `pip install --upgrade geocache`."
        )
    document = dict(about)
    while version < FORMAT_VERSION:
        if version not in MIGRATIONS:
            raise CacheError(
                f"cache format must be from {min(SINCE)} to {FORMAT_VERSION}, got {version} "
                f"({where}). Build the cache again."
            )
        document = MIGRATIONS[version](document)
        version += 1
    return document
