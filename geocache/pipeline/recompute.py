"""Run the teacher on a sample of a cache's rows again and compare with what is stored.

Under the same libraries, device, threads and batch size the bits must be the same, since the same
batches are run. Under others numbers may differ in their last bits and ties may fall otherwise:
then almost all entries must agree within a tolerance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from geocache.data.cache import Cache, target_name
from geocache.data.findings import Finding
from geocache.data.layout import UNIT_ROWS, ArrayLayout, Group
from geocache.data.sealed import unseal
from geocache.pipeline.derivation import derive_rows
from geocache.pipeline.measure import IMAGES, VALID, Measure, stored_trees
from geocache.pipeline.plan import Missing, Unit
from geocache.pipeline.request import Progress
from geocache.pipeline.teacher import Teacher
from geocache.pipeline.unit_views import UnitViews
from geocache.pipeline.work import provenance, whole_batch

__all__ = ["Compared", "receipt_of", "recompute_sample"]

_PROVENANCE = ("device", "machine", "batch_size", "threads", "versions")
_ROWS_A_BATCH = 8
_TOLERANCE = 1e-2
"""Of the largest magnitude in the batch."""
_AGREEING = 0.98
"""Share of entries that must agree where the bits may differ: ties of trees fall otherwise."""


@dataclass(frozen=True)
class Compared:
    """A target of which rows were computed again."""

    target: str
    n_rows: int
    by: str
    """`bits`, or the tolerance that was allowed, and why."""


def receipt_of(cache: Cache, layout: ArrayLayout, row: int, view: int = 0) -> dict[str, Any] | None:
    """Return the receipt of the row group that holds a row, None where it is not committed."""
    index = row // layout.group_rows
    n_rows = cache.receipts(layout).get((view, index), 0)
    start = index * layout.group_rows
    if row >= start + n_rows:
        return None
    key = layout.receipt_key(Group(view, index, start, start + n_rows))
    return unseal(cache.objects.get(key), key)


def recompute_sample(
    cache: Cache, teacher: Teacher, sample: int, tell: Progress
) -> tuple[list[Finding], list[Compared]]:
    """Compute the targets of whole batches that hold `sample` rows, drawn by the cache's key.

    Each batch in one of the views, also drawn. Raises ConfigError where views call a module of the
    user's own, which a cache may not import.

    Imported targets are left out: no teacher gives them. Derived ones are derived again.
    """
    targets = [layout for layout in cache.layouts.values() if _is_target(layout)]
    n_rows = min(cache.n_built(IMAGES), cache.n_built(VALID))
    rng = np.random.Generator(np.random.PCG64(int(cache.key[:16], 16)))
    count = min(-(-sample // _ROWS_A_BATCH), n_rows)
    rows = np.sort(rng.choice(n_rows, size=count, replace=False)) if count else np.empty(0, int)
    views = rng.integers(0, cache.n_views, size=count)
    findings: list[Finding] = []
    compared: dict[str, tuple[int, str]] = {}
    seen: set[tuple[str, int, int]] = set()
    for done, (row, view) in enumerate(zip(rows.tolist(), views.tolist(), strict=True), 1):
        for batch in _batches(cache, targets, row, view):
            new = [path for path in batch.paths if (path, batch.start, view) not in seen]
            seen.update((path, batch.start, view) for path in new)
            for path, stored, computed in _computed(cache, teacher, batch, new):
                exact = batch.provenance == provenance(
                    teacher.device, batch.provenance["batch_size"], batch.provenance["threads"]
                )
                by = "bits" if exact else f"{_TOLERANCE:g} of the largest, other provenance"
                n_compared = 0
                for group in _groups_in(cache, batch, path):
                    part = slice(group.start - batch.start, group.stop - batch.start)
                    what = _difference(cache, path, stored[part], computed[part], exact=exact)
                    n_compared += group.stop - group.start
                    if what is not None:
                        key = cache.layouts[path].object_key(group)
                        rows_of = (group.start, group.stop)
                        findings.append(Finding(key, path, rows_of, what, "recompute"))
                compared[path] = (compared.get(path, (0, ""))[0] + n_compared, by)
        tell("recomputing", done, len(rows))
    return findings, [Compared(target_name(p), n, by) for p, (n, by) in sorted(compared.items())]


@dataclass(frozen=True)
class _Batch:
    view: int
    start: int
    stop: int
    provenance: Mapping[str, Any]
    paths: Mapping[str, tuple[str, ...] | None]
    """Which arrays this batch was computed for, and what each was derived from, if it was."""


def _is_target(layout: ArrayLayout) -> bool:
    return "kind" in layout.attributes.get("geocache", {})


def _batches(cache: Cache, targets: Iterable[ArrayLayout], row: int, view: int) -> list[_Batch]:
    """Return the batches that gave a row its targets in a view: one for each provenance."""
    found: dict[str, tuple[dict[str, Any], dict[str, tuple[str, ...] | None]]] = {}
    for layout in targets:
        receipt = receipt_of(cache, layout, row, view)
        if receipt is None or "imported" in receipt:
            continue
        own = {k: receipt[k] for k in _PROVENANCE}
        paths = found.setdefault(repr(own), (own, {}))[1]
        sources = receipt.get("derived_from")
        paths[layout.path] = None if sources is None else tuple(sources)
    batches = []
    for own, paths in found.values():
        unit = row - row % UNIT_ROWS
        start = row - (row - unit) % own["batch_size"]
        front = min(cache.layouts[path].n_rows for path in paths)
        built = _committed(cache, paths, view)
        stop = min(start + own["batch_size"], unit + UNIT_ROWS, front, built)
        batches.append(_Batch(view, start, stop, own, paths))
    return batches


def _groups_in(cache: Cache, batch: _Batch, path: str) -> Iterator[Group]:
    """Yield the parts of a batch by row group, of those groups that were computed in one way."""
    layout = cache.layouts[path]
    size = layout.group_rows
    for start in range(batch.start - batch.start % size, batch.stop, size):
        low, high = max(start, batch.start), min(start + size, batch.stop)
        receipt = receipt_of(cache, layout, low, batch.view)
        if receipt is not None and all(receipt[k] == batch.provenance[k] for k in _PROVENANCE):
            yield Group(batch.view, start // size, low, high)


def _committed(cache: Cache, paths: Iterable[str], view: int) -> int:
    built = [cache.n_built(target_name(path), view + 1) for path in paths]
    return min(*built, cache.n_built(IMAGES), cache.n_built(VALID))


def _computed(
    cache: Cache, teacher: Teacher, batch: _Batch, paths: list[str]
) -> Iterator[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Yield (path, stored rows, rows computed now)."""
    start, stop = batch.start, batch.stop
    if start >= stop:
        return
    torch.set_num_threads(batch.provenance["threads"])
    unit = Unit(batch.view, start, stop, ())
    views = UnitViews(cache.views, cache, unit, cache.image_shape)
    low, high = views.needed(start, stop)
    bad = low + np.flatnonzero(~cache.read(VALID, low, high).astype(np.bool_))
    parameters = views.parameters(start, stop, bad.tolist())
    seen = views.make(cache.read(IMAGES, low, high), parameters, start)
    padded = whole_batch(seen, batch.provenance["batch_size"])
    positions = [int(row) - start for row in bad if start <= row < stop]
    measured = [path for path in paths if batch.paths[path] is None]
    computed: dict[str, np.ndarray[Any, Any]] = {}
    # Trees by themselves; what lies over trees, over those that are stored.
    trees = [path for path in measured if path.endswith("/mst")]
    for some in (trees, [path for path in measured if path not in trees]):
        if some:
            measure = Measure(some)
            over = {} if some is trees else stored_trees(cache, unit, measure.layers)
            held = {layer: torch.from_numpy(rows) for layer, rows in over.items()}
            tensors = teacher.tap(measure.layers).run(padded)
            computed.update(measure(tensors, start, stop, positions, held))
    for path in paths:
        sources = batch.paths[path]
        if sources is not None:
            missing = [Missing(path, Group(batch.view, 0, start, stop))]
            parts = derive_rows(
                cache, {target_name(path): sources}, missing, batch.provenance["batch_size"]
            )
            computed[path] = np.concatenate([rows[path] for rows, _, _ in parts])
    for path in paths:
        yield path, cache.read(target_name(path), start, stop, batch.view), computed[path]


def _difference(
    cache: Cache,
    path: str,
    stored: np.ndarray[Any, Any],
    computed: np.ndarray[Any, Any],
    *,
    exact: bool,
) -> str | None:
    if exact:
        same = stored.tobytes() == computed.tobytes()
        return None if same else "is not, bit for bit, what the teacher gives"
    target = cache.decoder(target_name(path))
    a, b = (target.decode(torch.from_numpy(rows)).double().numpy() for rows in (stored, computed))
    if stored.dtype.kind == "f" or "scale_factor" in cache.layouts[path].attributes:
        agreeing = np.abs(a - b) <= _TOLERANCE * max(float(np.abs(a).max(initial=0)), 1e-12)
    else:
        agreeing = a == b
    share = float(agreeing.mean()) if agreeing.size else 1.0
    if share >= _AGREEING:
        return None
    return f"agrees with the teacher in {share:.1%} of its entries only"
