"""Write a cache: commit row groups, publish arrays when they are whole.

A row group counts once its receipt exists. The order is: encode, write durably, read back and hash,
then the receipt, which never replaces another. An array's `zarr.json` appears at the end, so a
reader without geocache does not see an array before it is whole; builders find its layout under
`meta/arrays` instead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from geocache.data.cache import Cache
from geocache.data.layout import SMALL_UNIT_ROWS, ArrayLayout, Group
from geocache.data.objects import LocalObjects
from geocache.data.store import array_metadata, checksum, encode_group, group_metadata
from geocache.errors import CacheError, StorageError

__all__ = ["CacheWriter", "create_cache", "small_layout"]


def create_cache(path: Path, about: Mapping[str, Any]) -> Cache:
    """Create the cache in a folder unless it exists, and open it.

    about: what `Cache` reads, with `key` and `identity`. Raises CacheError when the folder holds a
    cache with another key.
    """
    objects = LocalObjects(path)
    if not objects.exists("zarr.json"):
        objects.create("zarr.json", group_metadata({"geocache": dict(about)}))
    cache = Cache(path)
    if cache.key != about["key"]:
        raise CacheError(
            f"folder must hold cache {about['key'][:12]}, got {cache.key[:12]} ({path}). "
            "Move it away or choose another store."
        )
    return cache


def small_layout(path: str, rows: np.ndarray[Any, Any], axes: tuple[str, ...] = ()) -> ArrayLayout:
    """Return the layout of an array that is written at once."""
    return ArrayLayout(
        path=path,
        dtype=str(rows.dtype),
        n_rows=len(rows),
        row_shape=rows.shape[1:],
        row_axes=axes,
        bytes_per_row=int(rows.dtype.itemsize * np.prod(rows.shape[1:], dtype=np.int64)),
        unit_rows=SMALL_UNIT_ROWS,
    )


class CacheWriter:
    """Commits row groups of one cache; any number of writers may share it."""

    def __init__(self, path: Path, provenance: Mapping[str, Any]) -> None:
        """Write to the cache in a folder; `provenance` goes into every receipt."""
        self.objects = LocalObjects(path)
        self.provenance = dict(provenance)

    def declare(self, layout: ArrayLayout) -> None:
        """Announce an array; raises CacheError when it exists with another layout."""
        key = f"meta/arrays/{layout.path}/zarr.json"
        metadata = array_metadata(layout)
        if not self.objects.create(key, metadata) and self.objects.get(key) != metadata:
            raise CacheError(
                f"array '{layout.path}' exists with another layout (in {self.objects.root}). "
                "Another version of geocache wrote it; use another store."
            )

    def commit(
        self,
        layout: ArrayLayout,
        group: Group,
        rows: np.ndarray[Any, Any],
        notes: Mapping[str, Any] | None = None,
    ) -> int:
        """Write one row group and its receipt; return its bytes on disk.

        Raises StorageError when the disk refuses or gives back other bytes than were written.
        """
        objects = self._write(layout, group, rows)
        self.objects.create(layout.receipt_key(group), self._receipt(layout, group, objects, notes))
        self._drop_shorter(layout, group)
        return sum(described["bytes"] for described in objects.values())

    def replace(self, layout: ArrayLayout, rows: np.ndarray[Any, Any]) -> None:
        """Write a small array, or correct it where it stands; equal content is left alone."""
        self.declare(layout)
        for group in layout.groups():
            part = rows[group.start : group.stop]
            described = {k: _describe(d) for k, d in encode_group(layout, group, part).items()}
            receipt = self._receipt(layout, group, described, None)
            key = layout.receipt_key(group)
            if self.objects.exists(key) and _same_objects(self.objects.get(key), described):
                continue
            self._write(layout, group, part)
            self.objects.put(key, receipt)
        self.publish(layout)

    def publish(self, layout: ArrayLayout) -> None:
        """Show a whole array to every Zarr reader; safe to repeat."""
        parts = layout.path.split("/")
        for depth in range(1, len(parts)):
            self.objects.create(f"{'/'.join(parts[:depth])}/zarr.json", group_metadata({}))
        self.objects.create(f"{layout.path}/zarr.json", array_metadata(layout))

    def _write(
        self, layout: ArrayLayout, group: Group, rows: np.ndarray[Any, Any]
    ) -> dict[str, dict[str, Any]]:
        described = {}
        for key, data in encode_group(layout, group, rows).items():
            self.objects.put(key, data)
            described[key] = _describe(data)
            if _describe(self.objects.get(key)) != described[key]:
                raise StorageError(
                    f"object '{key}' reads back differently than it was written "
                    f"(in {self.objects.root}). Check the disk, then run the same command again."
                )
        return described

    def _receipt(
        self,
        layout: ArrayLayout,
        group: Group,
        objects: Mapping[str, Mapping[str, Any]],
        notes: Mapping[str, Any] | None,
    ) -> bytes:
        receipt = {
            "array": layout.path,
            "view": group.view,
            "rows": [group.start, group.stop],
            "objects": objects,
            **self.provenance,
            **(notes or {}),
        }
        return (json.dumps(receipt, indent=1, sort_keys=True) + "\n").encode()

    def _drop_shorter(self, layout: ArrayLayout, group: Group) -> None:
        """Remove the receipts of a partial build that this group has outgrown."""
        front = layout.receipt_key(group).rpartition("-r")[0].rpartition("/")[2]
        for name in self.objects.list(layout.receipts):
            if name.startswith(f"{front}-r"):
                rows = int(name.rpartition("-r")[2].removesuffix(".json"))
                if rows < group.stop - group.start:
                    self.objects.delete(f"{layout.receipts}/{name}")


def _describe(data: bytes) -> dict[str, Any]:
    return {
        "bytes": len(data),
        "crc32c": checksum(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _same_objects(receipt: bytes, objects: Mapping[str, Mapping[str, Any]]) -> bool:
    try:
        held = json.loads(receipt)["objects"]
    except (ValueError, KeyError, TypeError):
        return False
    return bool(held == objects)
