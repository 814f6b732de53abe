"""Turn batches of tapped tensors into targets, and batches of targets into row groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import Tensor

from geocache.data.cache import Cache, target_name
from geocache.data.layout import ArrayLayout, Group
from geocache.data.writer import CacheWriter
from geocache.pipeline.plan import Missing, Unit
from geocache.targets import LayerTarget, LocalFeatures, target_from_name
from geocache.targets.affinity import Affinity

__all__ = ["IMAGES", "VALID", "VIEWS", "GroupBuffers", "Measure", "affinity_radii", "stored_trees"]

IMAGES, VALID, VIEWS = "images", "valid", "views"


def affinity_radii(targets: Iterable[LayerTarget]) -> dict[str, tuple[int, ...]]:
    """Return the radii of the affinities by layer, so that one pass computes them all."""
    radii: dict[str, tuple[int, ...]] = {}
    for wanted in targets:
        if wanted.layer and isinstance(wanted.target, Affinity) and wanted.target.radius:
            radii[wanted.layer] = (*radii.get(wanted.layer, ()), wanted.target.radius)
    return radii


def stored_trees(
    cache: Cache, unit: Unit, layers: Iterable[str]
) -> dict[str, Int[np.ndarray, "rows n"]]:
    """Return a unit's spanning trees that are stored already, by layer: J has to be over those."""
    trees = {}
    for layer in layers:
        name = f"{layer}/mst"
        if cache.n_built(name, unit.view + 1) >= unit.stop:
            trees[layer] = cache.read(name, unit.start, unit.stop, unit.view).astype(np.int32)
    return trees


class Measure:
    """Computes the targets of some arrays; those of one layer share its geometry."""

    def __init__(self, paths: Iterable[str]) -> None:
        """Take the arrays' paths; arrays that are no targets are passed over."""
        self.targets: dict[str, LayerTarget] = {
            path: target_from_name(target_name(path))
            for path in paths
            if path not in (IMAGES, VALID, VIEWS)
        }
        self._radii = affinity_radii(self.targets.values())

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that are to be tapped."""
        return tuple(sorted({t.layer for t in self.targets.values() if t.layer}))

    def __call__(
        self,
        tensors: Mapping[str, Tensor],
        start: int,
        stop: int,
        bad: Iterable[int],
        trees: Mapping[str, Tensor] | None = None,
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Return rows [start, stop) of each array by path, zeros at the `bad` positions.

        tensors: by layer, the output under the empty name; rows beyond the batch are padding.
        trees: the spanning trees of the rows where they are stored already, by layer.
        """
        rows = f"rows {start} to {stop - 1}"
        features: dict[str, LocalFeatures] = {}
        computed = {}
        for path, wanted in self.targets.items():
            layer = wanted.layer or ""
            if layer not in features:
                where = f"{f'layer {layer}' if layer else 'the output'}, {rows}"
                tree = (trees or {}).get(layer)
                features[layer] = LocalFeatures(
                    tensors[layer][: stop - start], where, self._radii.get(layer, ()), tree=tree
                )
            values = wanted.target.compute(features[layer])
            for position in bad:
                values[position] = 0
            computed[path] = values
        return computed


class GroupBuffers:
    """Collects batches into the row groups that are missing and commits those that are whole."""

    def __init__(
        self,
        writer: CacheWriter,
        layouts: Mapping[str, ArrayLayout],
        missing: Iterable[Missing],
        derived: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        """Fill `missing` through `writer`; each array's batches must come in the order of rows.

        derived: by path, what rows were derived from instead of measured; the receipts say it.
        """
        self._derived = dict(derived or {})
        self.writer, self.layouts, self.missing = writer, layouts, tuple(missing)
        self.n_bytes = 0
        """Bytes on disk of what was committed."""
        self._buffers: dict[tuple[str, Group], np.ndarray[Any, Any]] = {}

    def store(
        self,
        computed: Mapping[str, np.ndarray[Any, Any]],
        start: int,
        stop: int,
        bad: Mapping[int, str],
    ) -> None:
        """Copy rows [start, stop) into the groups they touch; commit those that they complete.

        bad: the reasons of all rows left out so far, for the receipts of `valid`.
        """
        for missing in self.missing:
            group = missing.group
            low, high = max(start, group.start), min(stop, group.stop)
            if missing.path not in computed or low >= high:
                continue
            key = (missing.path, group)
            if key not in self._buffers:
                layout = self.layouts[missing.path]
                shape = (group.stop - group.start, *layout.row_shape)
                self._buffers[key] = np.zeros(shape, layout.dtype)
            rows = computed[missing.path][low - start : high - start]
            self._buffers[key][low - group.start : high - group.start] = rows
            if high == group.stop:
                self._commit(missing.path, group, self._buffers.pop(key), bad)

    def _commit(
        self, path: str, group: Group, rows: np.ndarray[Any, Any], bad: Mapping[int, str]
    ) -> None:
        here = {str(r): why for r, why in bad.items() if group.start <= r < group.stop}
        notes: dict[str, Any] = {"bad": here} if path == VALID and here else {}
        if path in self._derived:
            notes["derived_from"] = self._derived[path]
        self.n_bytes += self.writer.commit(self.layouts[path], group, rows, notes)
