"""Describe caches as plain data: what a list of caches and a look at one of them show."""

from __future__ import annotations

from collections import Counter
from typing import Any

from geocache.data.cache import Cache, target_name
from geocache.data.labels import read_label
from geocache.data.layout import ArrayLayout
from geocache.errors import CacheError

__all__ = ["describe_cache"]


def describe_cache(cache: Cache) -> dict[str, Any]:
    """Return a cache's identity, rows, arrays and sizes as a JSON document."""
    identity = _identity(cache)
    sizes = _stored_bytes(cache)
    arrays = [_describe_array(cache, layout, sizes[path]) for path, layout in cache.layouts.items()]
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


def _describe_array(cache: Cache, layout: ArrayLayout, n_bytes: int) -> dict[str, Any]:
    """Return one array's shape, progress and size; `bytes_per_row` is what a row takes on disk."""
    name = target_name(layout.path)
    n_committed = sum(cache.receipts(layout).values())
    return {
        "name": name,
        "dtype": layout.dtype,
        "shape": list(layout.shape),
        "n_rows": layout.n_rows,
        "n_built": cache.n_built(name),
        "n_bytes": n_bytes,
        "bytes_per_row": n_bytes / n_committed if n_committed else 0.0,
    }


def _stored_bytes(cache: Cache) -> Counter[str]:
    """Return the bytes of each array's objects on disk, by path; one look for all of them."""
    sizes: Counter[str] = Counter()
    for key, n_bytes in cache.objects.walk():
        path, is_object, _ = key.rpartition("/c/")
        if is_object and path in cache.layouts:
            sizes[path] += n_bytes
    return sizes
