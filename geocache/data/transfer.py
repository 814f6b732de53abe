"""Copy a cache between folders and buckets so that it is trusted where it arrives as where it was.

The order is that of a build. Each object is checked against its receipt before it is written and
read back after that; then its receipt is created, byte for byte the source's. Documents that other
Zarr readers look for follow when an array is whole, and a new cache's own `zarr.json` comes last:
until then nothing is there. A copy that was cut off is taken up by the same command.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from geocache.data.ahead import map_ahead
from geocache.data.cache import Cache
from geocache.data.catalog import cache_folder
from geocache.data.layout import SMALL_UNIT_ROWS, ArrayLayout, Group
from geocache.data.objects import Address, Objects
from geocache.data.receipts import receipt_rows
from geocache.data.sealed import unseal
from geocache.data.store import array_metadata, group_metadata, layout_digest
from geocache.data.writer import CacheWriter, describe, root_metadata
from geocache.errors import CacheError, ConfigError

__all__ = ["TransferReport", "copy_cache"]

_THREADS = 8
_LOOKS = 3
_ROOT = "zarr.json"


@dataclass(frozen=True)
class TransferReport:
    """What a copy found and did."""

    key: str
    source: Address
    destination: Address
    n_groups: int
    """Row groups that the source's receipts count, of the arrays that were to be copied."""
    n_copied: int
    """Those of them that were written now; the others stood there already."""
    n_bytes: int
    """Bytes of the objects that were written now."""


def copy_cache(
    source: Address,
    store: Address,
    *,
    images: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> TransferReport:
    """Copy the cache at `source` into a store, and return what was done; safe to repeat.

    Only what receipts count is copied, so the cache may be partial. What stands at the destination
    is passed over: in a bucket by its receipt and size, in a folder its bytes are checked. At most
    a handful of objects are in memory at once.

    images: False leaves out the pixels, also those of evaluation splits; training there needs the
    data set. progress is called with (phase, done, total).

    Raises CacheError when an object of the source is damaged, naming it, or when the destination
    holds another cache or other bytes of the same rows; StorageError when either side refuses.
    What was copied until then stays.
    """
    cache = Cache(source)
    address = cache_folder(store, cache.key)
    if str(address) == str(source):
        raise ConfigError(f"source and destination must differ, got {source} twice.")
    copy = _Copy(cache, CacheWriter(address, {}), images)
    copy.check_destination()
    with copy.target.alone() as alone:
        if alone:
            copy.target.clean()
    with copy.target.writing():
        return copy.run(progress or (lambda phase, done, total: None))


@dataclass(frozen=True)
class _Piece:
    """One row group to copy."""

    layout: ArrayLayout
    group: Group

    @property
    def key(self) -> str:
        return self.layout.object_key(self.group)

    @property
    def receipt(self) -> str:
        return self.layout.receipt_key(self.group)


class _Copy:
    def __init__(self, cache: Cache, writer: CacheWriter, images: bool) -> None:
        self.cache, self.writer = cache, writer
        self.source: Objects = cache.objects
        self.target: Objects = writer.objects
        self.layouts = [
            layout for path, layout in sorted(cache.layouts.items()) if images or not _pixels(path)
        ]

    def run(self, tell: Callable[[str, int, int], None]) -> TransferReport:
        root = self.source.get(_ROOT)
        if root != root_metadata(self.cache.about):
            raise self._damaged(_ROOT, "its bytes do not fit its checksum")
        self.found = dict(self.target.walk())
        """What stood at the destination at first, with its bytes."""
        self.held = {layout.path: self._rows_there(layout) for layout in self.layouts}
        self.sizes = dict(self.source.walk())
        pieces = [piece for layout in self.layouts for piece in self._pieces(layout)]
        self._each(self._declare, self.layouts)
        n_copied = n_bytes = 0
        tell("copying", 0, len(pieces))
        for done, written in enumerate(map_ahead(self._copy, pieces, _THREADS), 1):
            n_copied += written is not None
            n_bytes += written or 0
            tell("copying", done, len(pieces))
        self._each(self._publish, self.layouts)
        if _ROOT not in self.found and not self.target.create(_ROOT, root):
            self.check_destination()
        return TransferReport(
            self.cache.key, self.source.root, self.target.root, len(pieces), n_copied, n_bytes
        )

    def _each(self, do: Callable[[ArrayLayout], None], layouts: list[ArrayLayout]) -> None:
        for _ in map_ahead(do, layouts, _THREADS):
            pass

    def check_destination(self) -> None:
        """Refuse to mix two caches: keys may share the letters that name the folder."""
        if self.target.exists(_ROOT):
            there = Cache(self.target.root)
            if there.key != self.cache.key:
                raise CacheError(
                    f"destination must hold cache {self.cache.key[:12]} or none, got "
                    f"{there.key[:12]} ({self.target.root}). Choose another store."
                )

    def _rows_there(self, layout: ArrayLayout) -> dict[tuple[int, int], int]:
        front = f"{layout.receipts}/"
        names = (key.removeprefix(front) for key in self.found if key.startswith(front))
        return receipt_rows(names, layout)

    def _pieces(self, layout: ArrayLayout) -> Iterator[_Piece]:
        size = layout.group_rows
        for (view, index), n_rows in sorted(self.cache.receipts(layout).items()):
            start = index * size
            if not (0 < n_rows <= size and start + n_rows <= layout.n_rows):
                raise self._damaged(
                    layout.receipts, f"group {index} of {n_rows} rows is outside the array"
                )
            yield _Piece(layout, Group(view, index, start, start + n_rows))

    def _declare(self, layout: ArrayLayout) -> None:
        """Copy an array's metadata, which its receipts vouch for."""
        key = f"meta/arrays/{layout.path}/zarr.json"
        metadata = self.source.get(key)
        if array_metadata(layout) != metadata:
            raise self._damaged(key, "it is not written as metadata is")
        digest = layout_digest(metadata)
        for piece in itertools.islice(self._pieces(layout), 1):
            receipt = unseal(self.source.get(piece.receipt), piece.receipt)
            if receipt.get("layout") != digest:
                raise self._damaged(key, "it is not the one that its array's receipts describe")
        self._create(key, metadata)

    def _publish(self, layout: ArrayLayout) -> None:
        """Show an array to every Zarr reader where the source does, its files read-only."""
        key, parts = f"{layout.path}/zarr.json", layout.path.split("/")
        if key not in self.sizes:
            return
        metadata = self.source.get(f"meta/arrays/{key}")
        if self.source.get(key) != metadata:
            raise self._damaged(key, "its bytes are not those of the array's metadata")
        pieces = list(self._pieces(layout))
        n_rows = sum(piece.group.stop - piece.group.start for piece in pieces)
        if n_rows != layout.n_rows * (layout.n_views or 1):
            raise self._damaged(layout.receipts, "receipts of a whole array are missing")
        for piece in pieces:
            self.target.protect(piece.key)
            self.target.protect(piece.receipt)
        for depth in range(1, len(parts)):
            self._create(f"{'/'.join(parts[:depth])}/zarr.json", group_metadata({}))
        self._create(key, metadata)

    def _create(self, key: str, data: bytes) -> None:
        """Write a document that never changes."""
        made = key not in self.found and self.target.create(key, data)
        if not made and self.target.get(key) != data:
            raise CacheError(
                f"object '{key}' must be the same at both ends, and differs (in "
                f"{self.target.root}). Another version of geocache wrote it, or it is damaged: run "
                f"`geocache verify {self.target.root}`, or choose another store."
            )

    def _copy(self, piece: _Piece) -> int | None:
        """Copy a row group; return its bytes, or None where it stands there already."""
        if self._held_rows(piece) > piece.group.stop - piece.group.start:
            return None
        held = self._held(piece)
        if held is not None and self._stands(held) and held == self._told(piece):
            return None
        receipt, encoded = self._read(piece)
        other = held is not None and held != self._objects_of(receipt, piece)
        if other and not _rewritten(piece.layout):
            raise CacheError(
                f"rows {piece.group.start} to {piece.group.stop - 1} of '{piece.layout.path}' must "
                f"be the same at both ends, got others in {self.target.root}. They were built "
                "apart, so their last bits differ; choose another store."
            )
        self.writer.place(piece.layout, piece.group, encoded, receipt, replacing=other)
        return sum(map(len, encoded.values()))

    def _held_rows(self, piece: _Piece) -> int:
        """Return the rows of a group that count at the destination."""
        group = (piece.group.view, piece.group.index)
        return self.held[piece.layout.path].get(group, 0)

    def _held(self, piece: _Piece) -> dict[str, Any] | None:
        """Return what the destination's receipt of the same rows says, None where there is none."""
        if piece.receipt not in self.found:
            return None
        try:
            return self._objects_of(self.target.get(piece.receipt), piece)
        except CacheError:  # A damaged receipt counts for nothing.
            return None

    def _told(self, piece: _Piece) -> dict[str, Any] | None:
        """Return what the source's receipt says; None where it is damaged, as `_read` will say."""
        try:
            return self._objects_of(self.source.get(piece.receipt), piece)
        except CacheError:
            return None

    def _objects_of(self, receipt: bytes, piece: _Piece) -> dict[str, Any]:
        described = unseal(receipt, piece.receipt).get("objects")
        about = described.get(piece.key) if isinstance(described, dict) else None
        if not isinstance(described, dict) or len(described) != 1 or not isinstance(about, dict):
            raise CacheError(f"object '{piece.receipt}' is damaged: it describes other objects.")
        return dict(described)

    def _stands(self, described: dict[str, Any]) -> bool:
        """Return whether objects are in place; in a folder, where reading is cheap, each byte."""
        return all(
            self.found.get(key) == about.get("bytes")
            and (self.target.distant or describe(self.target.get(key)) == about)
            for key, about in described.items()
        )

    def _read(self, piece: _Piece) -> tuple[bytes, dict[str, bytes]]:
        """Return a row group's receipt and objects from the source, checked.

        A builder may be replacing them meanwhile; a second look then finds all in place.
        """
        key, reason = piece.key, ""
        for look in range(_LOOKS):
            if look:
                self.sizes = dict(self.source.walk())
            try:
                receipt = self.source.get(piece.receipt)
                described = self._objects_of(receipt, piece)[key]
                reason = "it is not the one that its receipt describes"
                if described.get("bytes") == self.sizes.get(key):
                    data = self.source.get(key)
                    if describe(data) == described:
                        return receipt, {key: data}
                elif key not in self.sizes:
                    reason = "it is missing"
            except CacheError as error:
                reason = f"its receipt cannot be trusted, {error}".rstrip(".")
        rows = f"rows {piece.group.start} to {piece.group.stop - 1} of '{piece.layout.path}'"
        raise self._damaged(key, reason, f"{rows}, ")

    def _damaged(self, key: str, reason: str, rows: str = "") -> CacheError:
        return CacheError(
            f"object '{key}' is damaged: {reason} ({rows}in {self.source.root}). Run `geocache "
            f"verify {self.source.root} --repair`, then the same command again: what was copied is "
            "kept."
        )


def _pixels(path: str) -> bool:
    return path == "images" or path.startswith("eval/")


def _rewritten(layout: ArrayLayout) -> bool:
    """Return whether an array is one that builds correct: labels and places in the data set."""
    return layout.unit_rows == SMALL_UNIT_ROWS
