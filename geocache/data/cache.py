"""Read a cache: which targets it holds, how far they are built, their rows.

Only rows under a receipt exist. A row group is fetched whole, its checksum is checked as it is
decoded, and a missing or damaged object is an error that names it: nothing reads as zeros.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64, Shaped, UInt8

from geocache.data.ahead import map_ahead
from geocache.data.bounds import check_about
from geocache.data.catalog import find_cache
from geocache.data.formats import brought_up
from geocache.data.identity import cache_key
from geocache.data.layout import ArrayLayout, Group
from geocache.data.listing import Listing
from geocache.data.objects import Address, open_objects
from geocache.data.sealed import digest_of, parse_json, unseal
from geocache.data.store import decode_group, layout_digest, layout_from
from geocache.data.usage import Usage
from geocache.data.views import ViewSet, view_set_of
from geocache.errors import CacheError, MissingTargetError, nearest
from geocache.geometry import knn_mask, tree_mask
from geocache.targets import Target, target_from_name

__all__ = ["Cache", "array_path", "open_cache", "receipt_rows", "target_name"]

_REQUESTS = 8
"""Requests under way at once where the cache stands in a bucket."""
_RECEIPT = re.compile(r"v([0-9]{1,9})-g([0-9]{6,12})-r([0-9]{6,12})\.json")


def open_cache(which: str | Path, store: str | Path | None = None) -> Cache:
    """Open the cache at a path, or the one in `store` of that name or beginning of its key.

    It counts as used from now on (`geocache gc`). Raises CacheError when there is none, or when a
    newer geocache wrote it.
    """
    cache = Cache(find_cache(which, store))
    cache.usage = Usage(cache.path)
    return cache


def array_path(name: str) -> str:
    """Return where the array of a target stands: `logits`, `targets/layer2/mst`.

    The user's own stand there too when they belong to no layer: `targets/module~Class`.
    """
    return f"targets/{name}" if "/" in name or "~" in name else name


def target_name(path: str) -> str:
    """Return the name of the target whose array stands at `path`."""
    return path.removeprefix("targets/")


class Cache:
    """A cache opened for reading; it sees what was committed when it first looked.

    In a folder it looks anew each time it is asked what is built. In a bucket it looks once, and
    again where rows that are asked for were not there yet or were replaced meanwhile.
    """

    def __init__(self, path: Address) -> None:
        """Open the cache at an address; raises CacheError when it is none or a newer format."""
        self.path = path
        self.objects = open_objects(path)
        self.usage: Usage | None = None
        self._listing = Listing(self.objects, "meta")
        self._requests = _REQUESTS if self.objects.distant else 1
        self._layout_digests: dict[str, str] = {}
        self._described: dict[str, tuple[int, str]] = {}
        self._receipts: dict[str, dict[tuple[int, int], int]] = {}
        try:
            stored = parse_json(self.objects.get("zarr.json"))["attributes"]["geocache"]
            about = brought_up(stored, path)
            check_about(about)
            self.about: dict[str, Any] = about
            self.key: str = about["key"]
            self.identity: dict[str, Any] = about["identity"]
            self.classes: tuple[str, ...] = tuple(about["classes"])
            self.n_rows: int = about["n_rows"]
            self.image_shape: tuple[int, int, int] = tuple(about["image_shape"])
            self.mean: tuple[float, ...] = tuple(self.identity["teacher"]["mean"])
            self.std: tuple[float, ...] = tuple(self.identity["teacher"]["std"])
            damaged = stored.get("sha256") != digest_of(stored)
        except CacheError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CacheError(
                f"folder must hold a geocache cache, got {error!r} ({path})."
            ) from None
        if damaged:
            raise CacheError(
                f"object 'zarr.json' is damaged: its bytes do not fit its checksum ({path}). "
                f"`geocache verify {path} --repair` restores it."
            )

    def __reduce__(self) -> tuple[type[Cache], tuple[Address]]:
        """Open the cache again in another process."""
        return Cache, (self.path,)

    @property
    def rows_key(self) -> str:
        """What the rows are: caches with equal ones hold the same samples and views, in order."""
        return cache_key({"data": self.identity["data"], "views": self.identity["views"]})

    @cached_property
    def layouts(self) -> dict[str, ArrayLayout]:
        """Every array that is built or being built, by path."""
        layouts = {}
        front, name = "meta/arrays/", "/zarr.json"
        keys = [key for key in self._listing.keys("meta/arrays") if key.endswith(name)]
        held = map_ahead(self.objects.get, keys, self._requests)
        for key, metadata in zip(keys, held, strict=True):
            path = key.removeprefix(front).removesuffix(name)
            layouts[path] = layout_from(path, metadata)
            self._check_rows(layouts[path])
            self._layout_digests[path] = layout_digest(metadata)
        return layouts

    def _check_rows(self, layout: ArrayLayout) -> None:
        """Refuse an array of other rows than the cache's; evaluation splits have their own."""
        if layout.n_rows != self.n_rows and not layout.path.startswith("eval/"):
            raise CacheError(
                f"object 'meta/arrays/{layout.path}/zarr.json' is damaged: it has {layout.n_rows} "
                f"rows, the cache {self.n_rows} ({self.path}). `geocache verify {self.key[:12]} "
                "--repair` restores it."
            )

    def receipts(self, layout: ArrayLayout) -> dict[tuple[int, int], int]:
        """Return the committed rows of each (view, group) of an array.

        Names that fit no row group of it are no receipts.
        """
        return receipt_rows(self._listing.names(layout.receipts), layout)

    def counted(self, layout: ArrayLayout, group: Group) -> bool:
        """Return whether a committed group's object is the one that its receipt describes."""
        key, name = layout.object_key(group), layout.receipt_key(group)
        data, receipt = self._peek(key), self._peek(name)
        if data is None or receipt is None:
            return False
        return self._describes(receipt, name, layout, key, _fingerprint(data))

    def left_out(self, layout: ArrayLayout) -> dict[int, str]:
        """Return the rows whose image could not be read when they were committed, and why."""
        while True:
            held = self.receipts(layout)
            try:
                return self._notes(layout, held)
            except CacheError:
                if self.receipts(layout) == held:
                    raise

    def _notes(self, layout: ArrayLayout, held: Mapping[tuple[int, int], int]) -> dict[int, str]:
        bad: dict[int, str] = {}
        groups = (Group(view, index, 0, n_rows) for (view, index), n_rows in held.items())
        keys = [layout.receipt_key(group) for group in groups]
        receipts = map_ahead(self.objects.get, keys, self._requests)
        for key, data in zip(keys, receipts, strict=True):
            notes = unseal(data, key).get("bad", {})
            try:
                bad.update({int(row): str(why) for row, why in notes.items()})
            except (ValueError, AttributeError):
                raise CacheError(
                    f"receipt '{key}' must name rows under `bad`, got something else "
                    f"({self.path}). Build the cache again."
                ) from None
        return bad

    def target_names(self) -> tuple[str, ...]:
        """Return the targets of which some rows are built: `LAYER/ARRAY`, or without a layer.

        In the first view: who trains on it may go on while a builder adds others.
        """
        return tuple(
            target_name(path)
            for path, layout in self.layouts.items()
            if "kind" in layout.attributes["geocache"] and self._front(layout, 1)
        )

    def n_built(self, name: str, n_views: int | None = None) -> int:
        """Return how many rows of a target (or `images`) can be read, counted from the front.

        n_views: in the first so many views; by default in all that the array has.
        """
        layout = self.layouts.get(array_path(name))
        return 0 if layout is None else self._front(layout, n_views)

    def _front(self, layout: ArrayLayout, n_views: int | None = None) -> int:
        rows = self.receipts(layout)
        held = layout.n_views or 1
        wanted = held if n_views is None or layout.n_views is None else n_views
        if wanted > held:
            return 0
        size = layout.group_rows
        fronts = []
        for view in range(wanted):
            front = 0
            while front < layout.n_rows and front % size == 0:
                count = rows.get((view, front // size), 0)
                front += count
                if not count:
                    break
            fronts.append(front)
        return min(fronts)

    def read(self, name: str, start: int, stop: int, view: int = 0) -> np.ndarray[Any, Any]:
        """Return rows [start, stop) of a target as stored; O(rows), whole row groups are decoded.

        Raises MissingTargetError when the rows are not built, CacheError when an object is damaged.
        """
        return self.read_array(array_path(name), start, stop, view)

    def read_array(self, path: str, start: int, stop: int, view: int = 0) -> np.ndarray[Any, Any]:
        """Return rows [start, stop) of any array, by its path in the cache; as `read` otherwise."""
        return self._read(self._layout_at(path), start, stop, view)

    def decoder(self, name: str) -> Target:
        """Return the target that decodes stored batches of `name`.

        Imports the module that a user's target is named by, which nothing else here does: do not
        ask for names that you do not know.
        """
        layout = self._layout(name)
        return target_from_name(name).target.for_array(layout.attributes)

    @property
    def n_views(self) -> int:
        """The views that some target is built for, or being built for."""
        return max((layout.n_views or 1 for layout in self.layouts.values()), default=1)

    @cached_property
    def views(self) -> ViewSet:
        """The views that the teacher saw.

        Raises ConfigError where they call a module of the user's own, which a cache may not import.
        """
        return view_set_of(self.identity["views"], self.n_views)

    @property
    def view_identity(self) -> dict[str, Any]:
        """The policy and parameters of the views, as they name the cache."""
        views: dict[str, Any] = self.identity["views"]
        return views

    def row_bytes(self, name: str) -> int:
        """Return the bytes of one row of a target (or `images`) in one view, as `read` gives it."""
        layout = self._layout(name)
        return np.dtype(layout.dtype).itemsize * math.prod(layout.row_shape)

    def group_rows(self, name: str) -> int:
        """Return the rows of a row group: what one read from the storage holds at least."""
        return self._layout(name).group_rows

    def view_parameters(
        self, view: int, stop: int, start: int = 0
    ) -> Shaped[np.ndarray, "rows columns"]:
        """Return the parameters of one view of rows [start, stop); raises as `read` does."""
        return self.read("views", start, stop, view)

    @cached_property
    def labels(self) -> Int64[np.ndarray, " n"]:
        """Class of each row, -1 where there is no label."""
        return self._small("labels")

    @cached_property
    def dataset_index(self) -> Int64[np.ndarray, " n"]:
        """Position of each row in the data set of the last build."""
        return self._small("dataset_index")

    @cached_property
    def sample_id(self) -> UInt8[np.ndarray, "n 32"]:
        """SHA-256 of each row's content."""
        return self._small("sample_id")

    @property
    def valid(self) -> Bool[np.ndarray, " n"]:
        """Whether a row's image could be read; rows not yet built count as not valid."""
        built = self.n_rows if self._was_whole("valid") else self.n_built("valid")
        valid = self._room(self._layout("valid"), self.n_rows)
        valid[built:] = False
        valid[:built] = self.read("valid", 0, built)
        return valid.astype(np.bool_, copy=False)

    @cached_property
    def eval_splits(self) -> tuple[str, ...]:
        """The evaluation splits that stand in the cache whole."""
        found = {path.split("/")[1] for path in self.layouts if path.startswith("eval/")}
        return tuple(split for split in sorted(found) if self._is_whole(f"eval/{split}/images"))

    @cached_property
    def eval_images(self) -> UInt8[np.ndarray, "n height width 3"] | None:
        """Images of the evaluation split, None when the cache has none."""
        return self._eval("images")

    @cached_property
    def eval_labels(self) -> Int64[np.ndarray, " n"] | None:
        """Labels of the evaluation split, None when the cache has none."""
        return self._eval("labels")

    def mask(
        self,
        layer: str,
        *,
        radius: int | None = None,
        k: int | None = None,
        rows: slice = slice(None),
        view: int = 0,
    ) -> Bool[np.ndarray, "rows n n"]:
        """Derive dense masks of a layer for any radius (GeoReg eq 7) or any k up to the stored one.

        Raises MissingTargetError when the layer has no `mst` (for a radius) or no long enough
        `knn` (for a k). O(rows N^2).
        """
        start, stop, _ = rows.indices(self.n_rows)
        if radius is not None:
            parents = torch.from_numpy(self.read(f"{layer}/mst", start, stop, view).astype("int32"))
            return _bool_array(tree_mask(parents, radius))
        name = self.neighbour_list(layer, k or 1)
        lists = torch.from_numpy(self.read(name, start, stop, view).astype("int32"))
        return _bool_array(knn_mask(lists, k))

    def neighbour_list(self, layer: str, k: int) -> str:
        """Return the shortest stored `knn` target of a layer that holds k neighbours."""
        held = sorted(
            (int(name.rpartition(".k")[2]), name)
            for name in self.target_names()
            if name.startswith(f"{layer}/knn.k")
        )
        for size, name in held:
            if size >= k:
                return name
        raise self._missing(f"{layer}/knn.k{k}")

    def _was_whole(self, path: str, view: int = 0) -> bool:
        """Return whether an array was whole once, in a view: what is missing of it is damage."""
        key = f"{path}/zarr.json"
        try:
            return view < (layout_from(path, self.objects.get(key)).n_views or 1)
        except CacheError:
            return view == 0 and self.objects.exists(key)

    def _is_whole(self, path: str) -> bool:
        layout = self.layouts.get(path)
        whole = layout is not None and self._front(layout) == layout.n_rows
        return whole or self._was_whole(path)

    def _layout(self, name: str) -> ArrayLayout:
        return self._layout_at(array_path(name))

    def _layout_at(self, path: str) -> ArrayLayout:
        layout = self.layouts.get(path)
        if layout is None:
            self._check_declared(path)
            raise self._missing(target_name(path))
        return layout

    def _check_declared(self, path: str) -> None:
        """Raise CacheError where an array is published of which the layout is gone."""
        if self._was_whole(path):
            raise CacheError(
                f"object 'meta/arrays/{path}/zarr.json' is damaged: it is missing (all rows of "
                f"array '{path}', cache {self.key[:12]}). `geocache verify {self.key[:12]} "
                "--repair` restores it."
            )

    def _missing(self, name: str) -> MissingTargetError:
        known = self.target_names()
        held = ", ".join(known) or "none"
        return MissingTargetError(
            f"cache {self.key[:12]} has no target '{name}'; it holds {held}.{nearest(name, known)} "
            "Build it with `geocache build`."
        )

    def _eval(self, part: str) -> np.ndarray[Any, Any] | None:
        if not self.eval_splits:
            return None
        layout = self._layout_at(f"eval/{self.eval_splits[-1]}/{part}")
        return self._read(layout, 0, layout.n_rows, 0)

    def _small(self, name: str) -> np.ndarray[Any, Any]:
        layout = self._layout(name)
        return self._read(layout, 0, layout.n_rows, 0)

    def _object(self, layout: ArrayLayout, group: Group, committed: int) -> bytes:
        """Fetch the object of a group and hold it against its receipt, of `committed` rows.

        The codecs' own checksums find flipped bits; only the receipt tells a whole object that
        belongs elsewhere, or one cut where its front happens to look like an end. While a builder
        replaces the object its announcement counts too; as long as a look finds other bytes than
        the last one, somebody is at it, and the next look may find all in place.
        """
        if self.usage is not None:
            self.usage.renew()
        key = layout.object_key(group)
        seen: tuple[bytes | None, ...] | None = None
        while True:
            data = self._peek(key)
            found = None if data is None else _fingerprint(data)
            receipt = layout.receipt_key(_front_of(group, committed))
            if data is not None and self._described.get(receipt) == found:
                return data
            look = [data]
            for name in (receipt, layout.announcement_key(group)):
                document = self._peek(name)
                look.append(document)
                if data is None or found is None or document is None:
                    continue
                if self._describes(document, name, layout, key, found):
                    return data
            if seen == tuple(look):
                break
            seen = tuple(look)
            self._listing.forget()
            committed = self.receipts(layout).get((group.view, group.index), 0)
        reason = "it is missing"
        if data is not None:
            reason = "it is not the one that its receipt describes"
        raise self._damaged(layout, group, reason)

    def _damaged(self, layout: ArrayLayout, group: Group, reason: str) -> CacheError:
        return CacheError(
            f"object '{layout.object_key(group)}' is damaged: {reason} (rows {group.start} to "
            f"{group.stop - 1}, cache {self.key[:12]}). `geocache verify {self.key[:12]} --repair` "
            "restores it."
        )

    def _peek(self, key: str) -> bytes | None:
        """Return an object's bytes, None where there is none, or not any more."""
        try:
            return self.objects.get(key)
        except CacheError:
            if self.objects.exists(key):
                raise
            return None

    def _describes(
        self, receipt: bytes, name: str, layout: ArrayLayout, key: str, found: tuple[int, str]
    ) -> bool:
        """Return whether a receipt is whole, of this array and cache, and of this object."""
        try:
            document = unseal(receipt, name)
            described = document["objects"][key]
            same = document["layout"] == self._layout_digest(layout.path)
            same = same and document["cache"] == self.key
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
        if path not in self._layout_digests:
            metadata = self.objects.get(f"meta/arrays/{path}/zarr.json")
            self._layout_digests[path] = layout_digest(metadata)
        return self._layout_digests[path]

    def _read(self, layout: ArrayLayout, start: int, stop: int, view: int) -> np.ndarray[Any, Any]:
        if not 0 <= start <= stop <= layout.n_rows:
            raise CacheError(
                f"rows must lie in 0 to {layout.n_rows}, got {start} to {stop} ({layout.path})."
            )
        groups = list(_groups_of(layout, start, stop, view))
        committed = self._committed(layout, groups, start, stop)
        out = self._room(layout, stop - start)
        fetched = map_ahead(
            lambda group: self._object(layout, group, committed[view, group.index]),
            groups,
            self._requests,
        )
        for group, data in zip(groups, fetched, strict=True):
            low, high = max(start, group.start), min(stop, group.stop)
            # A partial group holds its front alone.
            rows = decode_group(layout, _front_of(group, high - group.start), data)
            if (start, stop) == (group.start, high):
                return rows
            out[low - start : high - start] = rows[low - group.start : high - group.start]
        return out

    def _room(self, layout: ArrayLayout, n_rows: int) -> np.ndarray[Any, Any]:
        try:
            return np.empty((n_rows, *layout.row_shape), layout.dtype)
        except MemoryError as error:
            raise CacheError(
                f"{n_rows} rows of '{layout.path}' must fit into memory, got: {error} "
                f"({self.path}). Read fewer at once."
            ) from None

    def _committed(
        self, layout: ArrayLayout, groups: list[Group], start: int, stop: int
    ) -> dict[tuple[int, int], int]:
        """Return the committed rows of an array's groups; they must reach rows [start, stop)."""
        for look in range(2):
            if look:
                self._listing.forget()
            if look or layout.path not in self._receipts:
                self._receipts[layout.path] = self.receipts(layout)
            committed = self._receipts[layout.path]
            absent = [
                (max(start, group.start), min(stop, group.stop))
                for group in groups
                if committed.get((group.view, group.index), 0) < min(stop, group.stop) - group.start
            ]
            if not absent:
                return committed
        low, high = absent[0]
        view = groups[0].view
        if self._was_whole(layout.path, view):
            lost = next(group for group in groups if group.start <= low < group.stop)
            raise self._damaged(layout, lost, "its receipt is missing")
        raise MissingTargetError(
            f"rows {low} to {high - 1} of '{target_name(layout.path)}' are not built "
            f"(view {view}, cache {self.key[:12]}). Run `geocache build` to complete it."
        )


def _fingerprint(data: bytes) -> tuple[int, str]:
    """Return what receipts know an object by."""
    return len(data), hashlib.sha256(data).hexdigest()


def receipt_rows(names: Iterable[str], layout: ArrayLayout) -> dict[tuple[int, int], int]:
    """Return the rows of each (view, group) that receipts of these names count.

    Names that fit no row group of the array are no receipts.
    """
    size, n_views = layout.group_rows, layout.n_views or 1
    rows: dict[tuple[int, int], int] = {}
    for name in names:
        match = _RECEIPT.fullmatch(name)
        if match:
            view, group, count = map(int, match.groups())
            if view < n_views and 0 < count <= min(size, layout.n_rows - group * size):
                rows[view, group] = max(count, rows.get((view, group), 0))
    return rows


def _groups_of(layout: ArrayLayout, start: int, stop: int, view: int) -> Iterator[Group]:
    """Yield the whole groups that rows [start, stop) lie in."""
    size = layout.group_rows
    for first in range(start // size * size, stop if stop > start else 0, size):
        yield Group(view, first // size, first, min(first + size, layout.n_rows))


def _front_of(group: Group, n_rows: int) -> Group:
    """Return the front of a group of which a partial build committed `n_rows`."""
    return Group(group.view, group.index, group.start, group.start + n_rows)


def _bool_array(mask: torch.Tensor) -> Bool[np.ndarray, "rows n n"]:
    array: np.ndarray[Any, Any] = mask.numpy()
    return array
