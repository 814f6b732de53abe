"""Read a cache: which targets it holds, how far they are built, their rows.

Only rows under a receipt exist. A row group is fetched whole, its checksum is checked as it is
decoded, and a missing or damaged object is an error that names it: nothing reads as zeros.
"""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64, Shaped, UInt8

from geocache.data.about import read_about
from geocache.data.ahead import map_ahead
from geocache.data.catalog import find_cache
from geocache.data.identity import cache_key
from geocache.data.layout import ArrayLayout, array_path, target_name
from geocache.data.objects import Address, open_objects
from geocache.data.receipts import Receipts, requests_at_once
from geocache.data.row_reader import RowReader
from geocache.data.store import layout_digest, layout_from
from geocache.data.usage import Usage
from geocache.data.views import ViewSet, view_set_of
from geocache.errors import CacheError, MissingTargetError, nearest
from geocache.geometry import knn_mask, tree_mask
from geocache.targets import Target, target_from_name

__all__ = ["Cache", "array_path", "open_cache", "target_name"]


def open_cache(which: str | Path, store: str | Path | None = None) -> Cache:
    """Open the cache at a path, or the one in `store` of that name or beginning of its key.

    It counts as used from now on (`geocache gc`). Raises CacheError when there is none, or when a
    newer geocache wrote it.
    """
    cache = Cache(find_cache(which, store))
    cache.reader.usage = Usage(cache.path)
    return cache


class Cache:
    """A cache opened for reading; it sees what was committed when it first looked.

    In a folder it looks anew each time it is asked what is built. In a bucket it looks once, and
    again where rows that are asked for were not there yet or were replaced meanwhile.
    """

    def __init__(self, path: Address) -> None:
        """Open the cache at an address; raises CacheError when it is none or a newer format."""
        self.path = path
        self.objects = open_objects(path)
        self._receipts = Receipts(self.objects)
        about = read_about(self.objects, path)
        self.about: dict[str, Any] = about
        self.key: str = about["key"]
        self.identity: dict[str, Any] = about["identity"]
        self.classes: tuple[str, ...] = tuple(about["classes"])
        self.n_rows: int = about["n_rows"]
        self.image_shape: tuple[int, int, int] = tuple(about["image_shape"])
        self.mean: tuple[float, ...] = tuple(self.identity["teacher"]["mean"])
        self.std: tuple[float, ...] = tuple(self.identity["teacher"]["std"])
        self.reader = RowReader(self.objects, self.key, self._receipts)

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
        keys = [key for key in self._receipts.listing.keys("meta/arrays") if key.endswith(name)]
        held = map_ahead(self.objects.get, keys, requests_at_once(self.objects))
        for key, metadata in zip(keys, held, strict=True):
            path = key.removeprefix(front).removesuffix(name)
            layouts[path] = layout_from(path, metadata)
            self._check_rows(layouts[path])
            self.reader.layout_digests[path] = layout_digest(metadata)
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
        return self._receipts.rows(layout)

    def left_out(self, layout: ArrayLayout) -> dict[int, str]:
        """Return the rows whose image could not be read when they were committed, and why."""
        return self._receipts.left_out(layout)

    def target_names(self) -> tuple[str, ...]:
        """Return the targets of which some rows are built: `LAYER/ARRAY`, or without a layer.

        In the first view: who trains on it may go on while a builder adds others.
        """
        return tuple(
            target_name(path)
            for path, layout in self.layouts.items()
            if "kind" in layout.attributes["geocache"] and self._receipts.front(layout, 1)
        )

    def n_built(self, name: str, n_views: int | None = None) -> int:
        """Return how many rows of a target (or `images`) can be read, counted from the front.

        n_views: in the first so many views; by default in all that the array has.
        """
        layout = self.layouts.get(array_path(name))
        return 0 if layout is None else self._receipts.front(layout, n_views)

    def read(self, name: str, start: int, stop: int, view: int = 0) -> np.ndarray[Any, Any]:
        """Return rows [start, stop) of a target as stored; O(rows), whole row groups are decoded.

        Raises MissingTargetError when the rows are not built, CacheError when an object is damaged.
        """
        return self.read_array(array_path(name), start, stop, view)

    def read_array(self, path: str, start: int, stop: int, view: int = 0) -> np.ndarray[Any, Any]:
        """Return rows [start, stop) of any array, by its path in the cache; as `read` otherwise."""
        return self.reader.read(self._layout_at(path), start, stop, view)

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
        built = self.n_rows if self.reader.was_whole("valid") else self.n_built("valid")
        valid = self.reader.room(self._layout("valid"), self.n_rows)
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

    def _is_whole(self, path: str) -> bool:
        layout = self.layouts.get(path)
        whole = layout is not None and self._receipts.front(layout) == layout.n_rows
        return whole or self.reader.was_whole(path)

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
        if self.reader.was_whole(path):
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
        return self.reader.read(layout, 0, layout.n_rows, 0)

    def _small(self, name: str) -> np.ndarray[Any, Any]:
        layout = self._layout(name)
        return self.reader.read(layout, 0, layout.n_rows, 0)


def _bool_array(mask: torch.Tensor) -> Bool[np.ndarray, "rows n n"]:
    array: np.ndarray[Any, Any] = mask.numpy()
    return array
