"""Import targets: an array that a user has, in the place of a teacher that would have to run.

The array is what was tapped, so every target that a build computes from the output or from a map
is computed from it, by the same code and in the same batches. Before anything is written the whole
array is read once: its content is hashed, its numbers must be finite, its order must be shown.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Int64

from geocache.data.cache import Cache, target_name
from geocache.data.layout import ArrayLayout
from geocache.data.writer import CacheWriter
from geocache.errors import CacheError, ConfigError, ShapeError
from geocache.pipeline.arrays import target_array, without_longer_lists
from geocache.pipeline.foundation import check_disk, publish_whole, writing
from geocache.pipeline.import_cache import cache_for
from geocache.pipeline.import_order import (
    Rows,
    check_agreement,
    check_labels,
    check_sizes,
    place,
    settle_copies,
)
from geocache.pipeline.import_request import Checked, ImportReport, ImportRequest
from geocache.pipeline.import_scan import as_single, can_agree, scan
from geocache.pipeline.measure import VALID, GroupBuffers, Measure, stored_trees
from geocache.pipeline.origin import receipts_of
from geocache.pipeline.plan import Unit, missing_bytes, plan_units
from geocache.pipeline.request import Progress
from geocache.pipeline.work import provenance

__all__ = ["ImportReport", "ImportRequest", "import_targets"]

_BATCH_ROWS = 64
"""Rows that are measured together: those of a build on a CPU."""


def import_targets(request: ImportRequest, progress: Progress | None = None) -> ImportReport:
    """Compute targets from an array and add them to a cache, or to one of the array itself.

    What the cache holds whole is left as it is; an import that was interrupted goes on. progress is
    called with (phase, done, total).

    Raises DataError when the rows are too few, too many or shown to be in another order,
    ConfigError when nothing shows their order, NumericError for NaN and infinity, ShapeError for an
    array that a target is not defined on or that is not of the cache's layer, CacheError when the
    cache holds a part of a target from elsewhere, StorageError when the disk is full.
    """
    started = time.monotonic()
    tell = progress or (lambda phase, done, total: None)
    goal = cache_for(request, tell)
    rows = goal.rows
    check_sizes(rows, len(request.array), request.labels, request.ids, request.name)
    layouts = _layouts(request, rows.n)
    positions = _positions(request, rows)
    checked = _shown_by(request, rows, positions)
    found = scan(request, rows, positions, tell)
    if checked == "agreement":
        chance = rows.largest_share or 1.0
        check_agreement(found.n_hits, found.n_labelled, chance, request.order, request.name)
    order = "ids" if request.ids is not None else request.order
    imported = {
        "file": request.name,
        "sha256": found.sha256,
        "order": order,
        "checked": checked,
    }
    receipt = provenance("cpu", _BATCH_ROWS, torch.get_num_threads())
    cache = goal.open(found.sha256, layouts, receipt)
    _check_views(cache)
    _check_shape(request, cache)
    layouts = without_longer_lists(layouts, cache, rows.n)
    committed = {path: cache.receipts(layout) for path, layout in layouts.items()}
    units = plan_units(layouts.values(), committed, rows.n)
    unfinished = {missing.path for unit in units for missing in unit.missing}
    for path in unfinished:
        _check_origin(cache, layouts[path], found.sha256, request.name)
    check_disk(cache.objects, missing_bytes(units, layouts))
    writer = CacheWriter(cache.path, {**receipt, "imported": imported})
    with writing(cache.path, cache.about):
        for path in unfinished:
            writer.declare(layouts[path])
        n_bytes = _write(request, positions, units, layouts, cache, writer, tell)
        publish_whole(writer, Cache(cache.path))
    return ImportReport(
        key=cache.key,
        path=cache.path,
        n_rows=rows.n,
        targets=tuple(target.name for target in request.targets),
        imported=tuple(target_name(path) for path in layouts if path in unfinished),
        sha256=found.sha256,
        order=order,
        checked=checked,
        agreement=found.agreement,
        n_bytes_written=n_bytes,
        elapsed_s=time.monotonic() - started,
        bad=_left_out(cache),
    )


def _positions(request: ImportRequest, rows: Rows) -> Int64[np.ndarray, " n"]:
    array = request.array
    return settle_copies(
        rows,
        place(rows, request.order, request.ids, request.name),
        lambda row: np.ascontiguousarray(array[row]).tobytes(),
        by_label=request.ids is None,
    )


def _shown_by(request: ImportRequest, rows: Rows, positions: Int64[np.ndarray, " n"]) -> Checked:
    """Return what shows the order; the agreement of logits is still to be measured."""
    if request.ids is not None:
        return "ids"
    if request.unchecked:
        return "no"
    given = request.labels
    if given is not None and check_labels(rows, given, positions, request.order, request.name):
        return "labels"
    if can_agree(request, rows):
        return "agreement"
    raise ConfigError(
        f"the order of the rows must be shown by ids, by labels of two classes or more, or by "
        f"logits of the data set's classes, got none of them ({request.name} for {rows.where}). "
        "Give --ids or --labels, or take the order for granted with --unchecked."
    )


def _layouts(request: ImportRequest, n_rows: int) -> dict[str, ArrayLayout]:
    shape = tuple(int(length) for length in request.array.shape[1:])
    layouts = (target_array(target, shape, n_rows) for target in request.targets)
    return {layout.path: layout for layout in layouts}


def _check_views(cache: Cache) -> None:
    policy = cache.identity["views"]["policy"]
    if policy != "identity":
        raise ConfigError(
            f"a cache must be of the images as they are to import into it, got views by '{policy}' "
            f"(cache {cache.key[:12]}). Give --dataset instead of --cache."
        )


def _check_shape(request: ImportRequest, cache: Cache) -> None:
    """Refuse an array of another shape than that of what the cache holds of the same layer."""
    shape = list(request.array.shape[1:])
    for path, layout in cache.layouts.items():
        own = layout.attributes.get("geocache", {})
        if "tapped_shape" not in own or own["layer"] != request.layer:
            continue
        if list(own["tapped_shape"]) != shape:
            raise ShapeError(
                f"array must have shape {tuple(own['tapped_shape'])} a row, as '"
                f"{target_name(path)}' of cache {cache.key[:12]} was measured on, got "
                f"{tuple(shape)} ({request.name}). Name the layer that the array was tapped at."
            )


def _check_origin(cache: Cache, layout: ArrayLayout, sha256: str, name: str) -> None:
    """Refuse to complete a target of which the cache has rows from a teacher or another array."""
    for receipt in receipts_of(cache, layout):
        if receipt.get("imported", {}).get("sha256") != sha256:
            source = receipt.get("imported", {}).get("file", "the teacher itself")
            raise CacheError(
                f"target '{target_name(layout.path)}' must come from one source, got rows "
                f"{receipt['rows'][0]} to {receipt['rows'][1] - 1} from {source} in cache "
                f"{cache.key[:12]} ({name}). Complete it from there, or import into another store."
            )


def _left_out(cache: Cache) -> dict[int, str]:
    return cache.left_out(cache.layouts[VALID]) if VALID in cache.layouts else {}


def _write(
    request: ImportRequest,
    positions: Int64[np.ndarray, " n"],
    units: list[Unit],
    layouts: Mapping[str, ArrayLayout],
    cache: Cache,
    writer: CacheWriter,
    tell: Progress,
) -> int:
    """Measure and commit unit by unit; return the bytes on disk."""
    bad = _left_out(cache)
    n_bytes = done = 0
    total = sum(unit.stop - unit.start for unit in units)
    for unit in units:
        measure = Measure(missing.path for missing in unit.missing)
        held = stored_trees(cache, unit, measure.layers)
        groups = GroupBuffers(writer, layouts, unit.missing)
        for start in range(unit.start, unit.stop, _BATCH_ROWS):
            stop = min(start + _BATCH_ROWS, unit.stop)
            tensor = torch.from_numpy(as_single(request.array[positions[start:stop]]))
            left_out = [row - start for row in bad if start <= row < stop]
            part = slice(start - unit.start, stop - unit.start)
            trees = {layer: torch.from_numpy(rows[part]) for layer, rows in held.items()}
            computed = measure({request.layer or "": tensor}, start, stop, left_out, trees)
            groups.store(computed, start, stop, {})
        n_bytes += groups.n_bytes
        done += unit.stop - unit.start
        tell("importing", done, total)
    return n_bytes
