"""Where a target's rows came from: no target is completed from two sources."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from geocache.data.cache import Cache, target_name
from geocache.data.layout import ArrayLayout
from geocache.data.sealed import unseal
from geocache.errors import CacheError

__all__ = ["check_not_imported", "receipts_of"]


def receipts_of(cache: Cache, layout: ArrayLayout) -> Iterator[dict[str, Any]]:
    """Yield what the receipts of an array say; raises CacheError for a damaged one."""
    for key in _keys(cache, layout):
        yield unseal(cache.objects.get(key), key)


def check_not_imported(
    cache: Cache, layouts: Mapping[str, ArrayLayout], unfinished: Iterable[str]
) -> None:
    """Raise CacheError where an array that is to be completed was begun by an import.

    One receipt tells of its array: imports and builds refuse to go on with each other's.
    """
    for path in sorted(unfinished):
        source = _first(cache, layouts[path]).get("imported")
        if source is not None:
            raise CacheError(
                f"target '{target_name(path)}' must come from one source, got a part imported from "
                f"{source['file']} (cache {cache.key[:12]}). Finish that import by the same "
                "`geocache import`, or remove the cache with `geocache rm`."
            )


def _first(cache: Cache, layout: ArrayLayout) -> dict[str, Any]:
    """Return the first receipt that can be read; a damaged one is for whoever needs its rows."""
    for key in _keys(cache, layout):
        try:
            return unseal(cache.objects.get(key), key)
        except CacheError:
            continue
    return {}


def _keys(cache: Cache, layout: ArrayLayout) -> list[str]:
    names = cache.objects.names(layout.receipts)
    return [f"{layout.receipts}/{name}" for name in names if name.endswith(".json")]
