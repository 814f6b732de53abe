"""Fetch the row groups of arrays, each held against its receipt before it is decoded.

The codecs' own checksums find flipped bits; only the receipt tells a whole object that belongs
elsewhere, or one cut where its front happens to look like an end. That costs a SHA-256 of all its
bytes, more than everything else that a read does. It is taken once: as long as the object's mark
says that nobody has replaced or changed it since, the codecs' checksums are left to find what
decays in place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from geocache.data.ahead import map_ahead
from geocache.data.layout import ArrayLayout, Group, target_name
from geocache.data.marks import Mark
from geocache.data.objects import Objects
from geocache.data.receipts import Receipts, requests_at_once
from geocache.data.sealed import unseal
from geocache.data.store import decode_group, layout_digest, layout_from
from geocache.data.usage import Usage
from geocache.errors import CacheError, MissingTargetError

__all__ = ["RowReader"]


class RowReader:
    """Reads the rows of one cache, which is named by its key; threads may share it.

    It remembers which rows are committed, and looks again where rows that are asked for were not
    there yet or were replaced meanwhile.
    """

    def __init__(self, objects: Objects, key: str, receipts: Receipts) -> None:
        """Read from `objects` what `receipts` count."""
        self.usage: Usage | None = None
        self.layout_digests: dict[str, str] = {}
        """By array, as its receipts must say; what is not known yet is read when it is needed."""
        self.n_hashed = 0
        """Objects that were hashed so far, to be held against a receipt."""
        self._objects, self._key, self._receipts = objects, key, receipts
        self._requests = requests_at_once(objects)
        self._described: dict[str, tuple[int, str]] = {}
        self._marks: dict[str, Mark] = {}
        """By receipt: the mark that an object had when this receipt was found to describe it."""
        self._committed: dict[str, dict[tuple[int, int], int]] = {}

    def read(self, layout: ArrayLayout, start: int, stop: int, view: int) -> np.ndarray[Any, Any]:
        """Return rows [start, stop) as stored; O(rows), whole row groups are decoded.

        Raises MissingTargetError when the rows are not built, CacheError when they are outside the
        array or an object is damaged.
        """
        if not 0 <= start <= stop <= layout.n_rows:
            raise CacheError(
                f"rows must lie in 0 to {layout.n_rows}, got {start} to {stop} ({layout.path})."
            )
        groups = list(_groups_of(layout, start, stop, view))
        committed = self._reaching(layout, groups, start, stop)
        out = self.room(layout, stop - start)
        fetched = map_ahead(
            lambda group: self._object(layout, group, committed[view, group.index]),
            groups,
            self._requests,
        )
        for group, data in zip(groups, fetched, strict=True):
            low, high = max(start, group.start), min(stop, group.stop)
            # A partial group holds its front alone.
            front = _front_of(group, high - group.start)
            try:
                rows = decode_group(layout, front, data)
            except CacheError:
                # What decayed under an old mark is not the object that the receipt describes.
                again = self._object(layout, group, committed[view, group.index], trust=False)
                rows = decode_group(layout, front, again)
            if (start, stop) == (group.start, high):
                return rows
            out[low - start : high - start] = rows[low - group.start : high - group.start]
        return out

    def room(self, layout: ArrayLayout, n_rows: int) -> np.ndarray[Any, Any]:
        """Return an array for so many rows; CacheError where the memory does not hold them."""
        try:
            return np.empty((n_rows, *layout.row_shape), layout.dtype)
        except MemoryError as error:
            raise CacheError(
                f"{n_rows} rows of '{layout.path}' must fit into memory, got: {error} "
                f"({self._objects.root}). Read fewer at once."
            ) from None

    def was_whole(self, path: str, view: int = 0) -> bool:
        """Return whether an array was whole once, in a view: what is missing of it is damage."""
        key = f"{path}/zarr.json"
        try:
            return view < (layout_from(path, self._objects.get(key)).n_views or 1)
        except CacheError:
            return view == 0 and self._objects.exists(key)

    def _reaching(
        self, layout: ArrayLayout, groups: list[Group], start: int, stop: int
    ) -> dict[tuple[int, int], int]:
        """Return the committed rows of an array's groups; they must reach rows [start, stop)."""
        for look in range(2):
            if look:
                self._receipts.listing.forget()
            if look or layout.path not in self._committed:
                self._committed[layout.path] = self._receipts.rows(layout)
            committed = self._committed[layout.path]
            absent = [
                (max(start, group.start), min(stop, group.stop))
                for group in groups
                if committed.get((group.view, group.index), 0) < min(stop, group.stop) - group.start
            ]
            if not absent:
                return committed
        low, high = absent[0]
        view = groups[0].view
        if self.was_whole(layout.path, view):
            lost = next(group for group in groups if group.start <= low < group.stop)
            raise self._damaged(layout, lost, "its receipt is missing")
        raise MissingTargetError(
            f"rows {low} to {high - 1} of '{target_name(layout.path)}' are not built "
            f"(view {view}, cache {self._key[:12]}). Run `geocache build` to complete it."
        )

    def _object(
        self, layout: ArrayLayout, group: Group, committed: int, *, trust: bool = True
    ) -> bytes:
        """Fetch the object of a group and hold it against its receipt, of `committed` rows.

        trust: take one whose mark is that of bytes that were held against it before.

        While a builder replaces the object its announcement counts too; as long as a look finds
        other bytes than the last one, somebody is at it, and the next look may find all in place.
        """
        if self.usage is not None:
            self.usage.renew()
        key = layout.object_key(group)
        seen: tuple[bytes | None, ...] | None = None
        while True:
            data, mark = self._peek(key)
            receipt = layout.receipt_key(_front_of(group, committed))
            if trust and data is not None and mark is not None and self._marks.get(receipt) == mark:
                return data
            found = None if data is None else self._fingerprint(data)
            if data is not None and self._described.get(receipt) == found:
                self._remember(receipt, mark)
                return data
            look = [data]
            for name in (receipt, layout.announcement_key(group)):
                document, _ = self._peek(name)
                look.append(document)
                if data is None or found is None or document is None:
                    continue
                if self._describes(document, name, layout, key, found):
                    self._remember(name, mark)
                    return data
            if seen == tuple(look):
                break
            seen = tuple(look)
            self._receipts.listing.forget()
            self._committed[layout.path] = self._receipts.rows(layout)
            committed = self._committed[layout.path].get((group.view, group.index), 0)
        reason = "it is missing"
        if data is not None:
            reason = "it is not the one that its receipt describes"
        raise self._damaged(layout, group, reason)

    def _damaged(self, layout: ArrayLayout, group: Group, reason: str) -> CacheError:
        return CacheError(
            f"object '{layout.object_key(group)}' is damaged: {reason} (rows {group.start} to "
            f"{group.stop - 1}, cache {self._key[:12]}). `geocache verify {self._key[:12]} "
            "--repair` restores it."
        )

    def _peek(self, key: str) -> tuple[bytes | None, Mark | None]:
        """Return an object's bytes and mark, None where there is none, or not any more."""
        try:
            return self._objects.get_marked(key)
        except CacheError:
            if self._objects.exists(key):
                raise
            return None, None

    def _remember(self, receipt: str, mark: Mark | None) -> None:
        if mark is None:
            self._marks.pop(receipt, None)
        else:
            self._marks[receipt] = mark

    def _fingerprint(self, data: bytes) -> tuple[int, str]:
        """Return what receipts know an object by."""
        self.n_hashed += 1
        return len(data), hashlib.sha256(data).hexdigest()

    def _describes(
        self, receipt: bytes, name: str, layout: ArrayLayout, key: str, found: tuple[int, str]
    ) -> bool:
        """Return whether a receipt is whole, of this array and cache, and of this object."""
        try:
            document = unseal(receipt, name)
            described = document["objects"][key]
            same = document["layout"] == self._layout_digest(layout.path)
            same = same and document["cache"] == self._key
            # Not by its crc32c: every chunk ends in its own, after which that of the whole says
            # how long the chunks are, and nothing of what is in them.
            told = (described["bytes"], described["sha256"])
            if not (same and told == found):
                return False
            self._described[name] = told
            return True
        except (ValueError, KeyError, TypeError):
            return False

    def _layout_digest(self, path: str) -> str:
        if path not in self.layout_digests:
            metadata = self._objects.get(f"meta/arrays/{path}/zarr.json")
            self.layout_digests[path] = layout_digest(metadata)
        return self.layout_digests[path]


def _groups_of(layout: ArrayLayout, start: int, stop: int, view: int) -> Iterator[Group]:
    """Yield the whole groups that rows [start, stop) lie in."""
    size = layout.group_rows
    for first in range(start // size * size, stop if stop > start else 0, size):
        yield Group(view, first // size, first, min(first + size, layout.n_rows))


def _front_of(group: Group, n_rows: int) -> Group:
    """Return the front of a group of which a partial build committed `n_rows`."""
    return Group(group.view, group.index, group.start, group.start + n_rows)
