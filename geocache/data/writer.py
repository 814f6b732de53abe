"""Write a cache: commit row groups, publish arrays when they are whole.

A row group counts once its receipt exists. The order is: encode, write durably, read back and hash,
then the receipt, which never replaces another. An array's `zarr.json` appears at the end, so a
reader without geocache does not see an array before it is whole; builders find its layout under
`meta/arrays` instead.

Where an object that counts already is replaced (a partial row group that grows, corrected labels),
an announcement of the new one stands beside the old receipt meanwhile, so that readers accept
either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from geocache.data.cache import Cache
from geocache.data.formats import SINCE
from geocache.data.layout import FORMAT_VERSION, SMALL_UNIT_ROWS, ArrayLayout, Group
from geocache.data.objects import Address, Objects, open_objects
from geocache.data.sealed import digest_of, seal, unseal
from geocache.data.store import (
    array_metadata,
    checksum,
    encode_group,
    group_metadata,
    layout_digest,
    layout_from,
)
from geocache.errors import CacheError, StorageError

__all__ = [
    "CacheWriter",
    "create_cache",
    "describe",
    "finish_announced",
    "root_metadata",
    "small_layout",
    "update_classes",
]


def root_metadata(about: Mapping[str, Any]) -> bytes:
    """Return the `zarr.json` of a cache: what it is a cache of, under its own checksum."""
    document = {**about, "readable_since": SINCE[FORMAT_VERSION]}
    return group_metadata({"geocache": {**document, "sha256": digest_of(document)}})


def create_cache(path: Address, about: Mapping[str, Any]) -> Cache:
    """Create the cache in a folder unless it exists, and open it.

    about: what `Cache` reads, with `key` and `identity`. Raises CacheError when the folder holds a
    cache with another key.
    """
    objects = open_objects(path)
    if not objects.exists("zarr.json"):
        objects.create("zarr.json", root_metadata(about))
    cache = Cache(path)
    if cache.key != about["key"]:
        raise CacheError(
            f"folder must hold cache {about['key'][:12]}, got {cache.key[:12]} ({path}). "
            "Move it away or choose another store."
        )
    return cache


def update_classes(cache: Cache, classes: Sequence[str]) -> None:
    """Correct the names of a cache's classes, as labels are corrected; nothing else of its root.

    The document is replaced at once, so a reader sees the old names or the new ones.
    """
    if tuple(classes) != cache.classes:
        about = {name: value for name, value in cache.about.items() if name != "sha256"}
        cache.objects.put("zarr.json", root_metadata({**about, "classes": list(classes)}))


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

    def __init__(self, path: Address, provenance: Mapping[str, Any]) -> None:
        """Write to the cache at an address; `provenance` goes into every receipt."""
        self.objects = open_objects(path)
        self.provenance = dict(provenance)
        self._key_held: str | None = None

    def declare(self, layout: ArrayLayout) -> None:
        """Announce an array; raises CacheError when it exists with another layout."""
        key = f"meta/arrays/{layout.path}/zarr.json"
        metadata = array_metadata(layout)
        if self.objects.create(key, metadata):
            return
        held = self.objects.get(key)
        if held == metadata:
            return
        if layout_digest(held) == layout_digest(metadata):
            # Only the number of views differs: it grows, and never shrinks.
            if (layout_from(layout.path, held).n_views or 1) < (layout.n_views or 1):
                self.objects.put(key, metadata)
        else:
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
        """Write one row group and its receipt; return the bytes written.

        What another builder has committed meanwhile is kept, and 0 returned. Raises StorageError
        when the disk refuses or gives back other bytes than were written.
        """
        encoded = encode_group(layout, group, rows)
        receipt = self._receipt(layout, group, encoded, notes)
        placed = self.place(layout, group, encoded, receipt)
        return sum(len(data) for data in encoded.values()) if placed else 0

    def place(
        self,
        layout: ArrayLayout,
        group: Group,
        encoded: Mapping[str, bytes],
        receipt: bytes,
        *,
        replacing: bool = False,
    ) -> bool:
        """Write a row group's objects, and its receipt, in the order that readers rely on.

        replacing: the receipt takes the place of one of the same rows. Returns whether anything was
        to be done. Raises StorageError as `commit` does.
        """
        key = layout.receipt_key(group)
        with self._sole(layout, group):
            finish_announced(self.objects, layout, group)
            if replacing:
                done = _describes(self.objects, key, encoded) and _stands(self.objects, encoded)
            else:
                done = self._committed(layout, group)
            if done:
                return False
            shorter = self._shorter(layout, group)
            announced = bool(shorter) or (replacing and self.objects.exists(key))
            if announced:
                self.objects.put(layout.announcement_key(group), receipt)
            self._write(encoded)
            if replacing:
                self.objects.put(key, receipt)
            elif not self.objects.create(key, receipt):
                self._settle(layout, group, encoded, receipt)
            for old in shorter:
                self.objects.delete(old)
            if announced:
                self.objects.delete(layout.announcement_key(group))
        return True

    def replace(self, layout: ArrayLayout, rows: np.ndarray[Any, Any]) -> None:
        """Write a small array, or correct it where it stands; equal content is left alone."""
        self.declare(layout)
        for group in layout.groups():
            encoded = encode_group(layout, group, rows[group.start : group.stop])
            receipt = self._receipt(layout, group, encoded, None)
            self.place(layout, group, encoded, receipt, replacing=True)
        self.publish(layout)

    def publish(self, layout: ArrayLayout) -> None:
        """Show a whole array to every Zarr reader, its files read-only; safe to repeat."""
        for group in layout.groups():
            self.objects.protect(layout.object_key(group))
            self.objects.protect(layout.receipt_key(group))
        self.objects.keep_names(layout.receipts)
        parts = layout.path.split("/")
        for depth in range(1, len(parts)):
            self.objects.create(f"{'/'.join(parts[:depth])}/zarr.json", group_metadata({}))
        key, metadata = f"{layout.path}/zarr.json", array_metadata(layout)
        if not self.objects.create(key, metadata) and self.objects.get(key) != metadata:
            self.objects.put(key, metadata)

    @property
    def _key(self) -> str:
        """The cache's key: a receipt of another cache, of the same data even, counts nothing."""
        if self._key_held is None:
            self._key_held = Cache(self.objects.root).key
        return self._key_held

    def _sole(self, layout: ArrayLayout, group: Group) -> AbstractContextManager[bool]:
        """Wait until no other writer is at this group: an announcement is of one of them."""
        name = hashlib.sha256(layout.object_key(group).encode()).hexdigest()[:20]
        return self.objects.claim(f"o-{name}", wait=True)

    def _committed(self, layout: ArrayLayout, group: Group) -> bool:
        """Return whether a receipt of at least these rows describes the object in place."""
        key = layout.object_key(group)
        return any(
            n_rows >= group.stop - group.start and _describes_what_stands(self.objects, name, key)
            for name, n_rows in self._receipts(layout, group)
        )

    def _write(self, encoded: Mapping[str, bytes]) -> None:
        for key, data in encoded.items():
            self.objects.put(key, data)
            if self.objects.get(key) != data:
                raise StorageError(
                    f"object '{key}' reads back differently than it was written "
                    f"(in {self.objects.root}). Check the disk, then run the same command again."
                )

    def _settle(
        self, layout: ArrayLayout, group: Group, encoded: Mapping[str, bytes], receipt: bytes
    ) -> None:
        """Make receipt and objects agree where another builder committed the group meanwhile.

        Whoever wrote the object last is right. Our own receipt after a lost reply is one that
        agrees.
        """
        key = layout.receipt_key(group)
        if not _describes(self.objects, key, encoded) and _stands(self.objects, encoded):
            self.objects.put(key, receipt)

    def _receipt(
        self,
        layout: ArrayLayout,
        group: Group,
        encoded: Mapping[str, bytes],
        notes: Mapping[str, Any] | None,
    ) -> bytes:
        receipt = {
            "cache": self._key,
            "array": layout.path,
            "view": group.view,
            "rows": [group.start, group.stop],
            "layout": layout_digest(array_metadata(layout)),
            "objects": {key: describe(data) for key, data in encoded.items()},
            **self.provenance,
            **(notes or {}),
        }
        return seal(receipt)

    def _shorter(self, layout: ArrayLayout, group: Group) -> list[str]:
        """Return the receipts of a partial build that this group outgrows."""
        receipts = self._receipts(layout, group)
        return [key for key, n_rows in receipts if n_rows < group.stop - group.start]

    def _receipts(self, layout: ArrayLayout, group: Group) -> list[tuple[str, int]]:
        """Return every receipt of a group with the rows that it counts."""
        front = layout.receipt_key(group).rpartition("-r")[0].rpartition("/")[2]
        return [
            (f"{layout.receipts}/{name}", int(name.rpartition("-r")[2].removesuffix(".json")))
            for name in self.objects.names(layout.receipts)
            if name.startswith(f"{front}-r") and name.endswith(".json")
        ]


def finish_announced(objects: Objects, layout: ArrayLayout, group: Group) -> None:
    """Do what is left of a replacement whose writer died, if there is one.

    Where the announced object is in place already its receipt gets its name; where not, the old
    ones still stand.
    """
    announcement = layout.announcement_key(group)
    if not objects.exists(announcement):
        return
    if _describes_what_stands(objects, announcement, layout.object_key(group)):
        receipt = objects.get(announcement)
        start, stop = unseal(receipt, announcement)["rows"]
        key = layout.receipt_key(Group(group.view, group.index, start, stop))
        objects.keep_names(layout.object_key(group).rpartition("/")[0])
        if not objects.exists(key) or objects.get(key) != receipt:
            objects.put(key, receipt)
    objects.delete(announcement)


def describe(data: bytes) -> dict[str, Any]:
    """Return what a receipt says of an object: its size and two checksums."""
    return {
        "bytes": len(data),
        "crc32c": checksum(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _describes(objects: Objects, receipt: str, encoded: Mapping[str, bytes]) -> bool:
    """Return whether there is a receipt, and of just these objects."""
    if not objects.exists(receipt):
        return False
    try:
        held = unseal(objects.get(receipt), receipt)["objects"]
    except (CacheError, KeyError):
        return False
    return bool(held == {key: describe(data) for key, data in encoded.items()})


def _describes_what_stands(objects: Objects, receipt: str, key: str) -> bool:
    """Return whether a receipt is whole and describes the object in place."""
    try:
        described = unseal(objects.get(receipt), receipt)["objects"][key]
        return bool(objects.exists(key) and described == describe(objects.get(key)))
    except (CacheError, KeyError):
        return False


def _stands(objects: Objects, encoded: Mapping[str, bytes]) -> bool:
    """Return whether these objects are in place."""
    return all(objects.exists(key) and objects.get(key) == data for key, data in encoded.items())
