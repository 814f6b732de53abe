"""What a cache says of itself, in its root document: read, brought up to date and checked."""

from __future__ import annotations

from typing import Any

from geocache.data.bounds import check_about
from geocache.data.formats import brought_up
from geocache.data.objects import Address, Objects
from geocache.data.sealed import digest_of, parse_json
from geocache.errors import CacheError

__all__ = ["read_about"]


def read_about(objects: Objects, path: Address) -> dict[str, Any]:
    """Return the root document's fields, `path` being where messages say that the cache stands.

    Raises CacheError where there is none, where a newer geocache wrote it, where it is damaged.
    """
    try:
        stored = parse_json(objects.get("zarr.json"))["attributes"]["geocache"]
        about: dict[str, Any] = brought_up(stored, path)
        check_about(about)
        damaged = stored.get("sha256") != digest_of(stored)
    except CacheError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CacheError(f"folder must hold a geocache cache, got {error!r} ({path}).") from None
    if damaged:
        raise CacheError(
            f"object 'zarr.json' is damaged: its bytes do not fit its checksum ({path}). "
            f"`geocache verify {path} --repair` restores it."
        )
    return about
