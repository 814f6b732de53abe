"""Describe caches as plain data: what a list of caches and a look at one of them show."""

from __future__ import annotations

from typing import Any

from geocache.data.cache import Cache, target_name
from geocache.data.labels import read_label
from geocache.data.layout import ArrayLayout
from geocache.data.objects import Objects
from geocache.errors import CacheError

__all__ = ["describe_array", "describe_cache", "stored_bytes"]


def describe_cache(cache: Cache) -> dict[str, Any]:
    """Return a cache's identity, rows, arrays and sizes as a JSON document."""
    identity = _identity(cache)
    arrays = [describe_array(cache, layout) for layout in cache.layouts.values()]
    targets = cache.target_names()
    label = read_label(cache.objects)
    per_row = {array["name"]: array["bytes_per_row"] for array in arrays}
    return {
        "key": cache.key,
        "path": str(cache.path),
        "name": label.name,
        "note": label.note,
        "pinned": label.pinned,
        "teacher": identity["teacher"],
        "data": identity["data"],
        "views": identity["views"],
        "n_rows": cache.n_rows,
        "n_valid": int(cache.read("valid", 0, cache.n_built("valid")).sum()),
        "classes": list(cache.classes),
        "image_shape": list(cache.image_shape),
        "eval_splits": list(cache.eval_splits),
        "targets": list(targets),
        "target_bytes_per_row": sum(per_row[name] for name in targets),
        "image_bytes_per_row": per_row.get("images", 0.0),
        "n_bytes": sum(array["n_bytes"] for array in arrays),
        "arrays": arrays,
    }


def _identity(cache: Cache) -> dict[str, Any]:
    """Return the parts of an identity that are shown; CacheError when one is not there."""
    try:
        parts = {name: dict(cache.identity[name]) for name in ("teacher", "data", "views")}
        teacher = parts["teacher"]
        teacher["options"] = dict(teacher["options"])
        teacher["model"], teacher["weights"] = str(teacher["model"]), str(teacher["weights"])
    except (KeyError, TypeError, ValueError) as error:
        raise CacheError(
            f"cache must say of which teacher, data and views it is, got {error!r} ({cache.path}). "
            "Build the cache again."
        ) from None
    return parts


def describe_array(cache: Cache, layout: ArrayLayout) -> dict[str, Any]:
    """Return one array's shape, progress and size; `bytes_per_row` is what a row takes on disk."""
    name = target_name(layout.path)
    n_committed = sum(cache.receipts(layout).values())
    n_bytes = stored_bytes(cache.objects, layout)
    return {
        "name": name,
        "dtype": layout.dtype,
        "shape": list(layout.shape),
        "n_rows": layout.n_rows,
        "n_built": cache.n_built(name),
        "n_bytes": n_bytes,
        "bytes_per_row": n_bytes / n_committed if n_committed else 0.0,
    }


def stored_bytes(objects: Objects, layout: ArrayLayout) -> int:
    """Return the bytes of an array's objects on disk."""
    return sum(n_bytes for key, n_bytes in objects.walk(f"{layout.path}/c"))
