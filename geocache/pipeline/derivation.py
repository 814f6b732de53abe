"""Derive targets from those that a cache holds already, without running the teacher.

Attention, Gram matrices and the like follow from a stored activation; the affinity of a further
radius from the stored tree with the activation or the distances. Which stored target serves is
decided by a pure function; the rows are computed by the same code as in a build.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from geocache.data.cache import Cache, array_path, target_name
from geocache.pipeline.measure import affinity_radii
from geocache.pipeline.plan import Missing
from geocache.targets import LayerTarget, StoredRows, serving_name, target_from_name

__all__ = ["choose_sources", "derive_rows"]


def choose_sources(wanted: Iterable[str], available: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return, for each wanted target that follows from `available` ones, which it takes.

    Names are the cache's own; the sources are bare names on the same layer. What is not in the
    result needs the teacher.
    """
    chosen = {}
    for name in wanted:
        found = target_from_name(name)
        prefix = f"{found.layer}/" if found.layer else ""
        for sources in found.target.sources():
            if all(serving_name(prefix + source, available) for source in sources):
                chosen[name] = sources
                break
    return chosen


def derive_rows(
    cache: Cache,
    derived: Mapping[str, tuple[str, ...]],
    missing: Iterable[Missing],
    batch_size: int,
) -> Iterator[tuple[dict[str, np.ndarray[Any, Any]], int, int]]:
    """Yield (rows by path, start, stop) over the missing row groups that are derived, in row order.

    derived: sources by target name. Rows that are not valid stay 0. Stored rows are read a source's
    row group at a time, so memory is bounded by a few of those.
    """
    groups = [m for m in missing if target_name(m.path) in derived]
    if not groups:
        return
    names = {m.path: target_name(m.path) for m in groups}
    targets = {path: target_from_name(name) for path, name in names.items()}
    radii = affinity_radii(targets.values())
    view = groups[0].group.view
    held = _held_names(cache, {names[path]: derived[names[path]] for path in names})
    step = math.gcd(*(cache.layouts[array_path(name)].group_rows for name in held))
    first, last = min(m.group.start for m in groups), max(m.group.stop for m in groups)
    for low in range(first - first % step, last, step):
        start, stop = max(low, first), min(low + step, last)
        stored = {name: cache.read(name, start, stop, view) for name in held}
        valid = cache.valid[start:stop]
        for begin in range(start, stop, batch_size):
            end = min(begin + batch_size, stop)
            part = slice(begin - start, end - start)
            decoded = {
                name: cache.decoder(name).decode(torch.from_numpy(rows[part]))
                for name, rows in stored.items()
            }
            yield _measure(targets, derived, decoded, radii, valid[part], (begin, end)), begin, end


def _held_names(cache: Cache, derived: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the stored targets that serve as sources."""
    known = cache.target_names()
    held = dict[str, None]()
    for name, sources in derived.items():
        layer = target_from_name(name).layer
        for source in sources:
            found = serving_name(f"{layer}/{source}" if layer else source, known)
            assert found is not None, "choose_sources found it"
            held[found] = None
    return tuple(held)


def _measure(
    targets: Mapping[str, LayerTarget],
    derived: Mapping[str, tuple[str, ...]],
    decoded: Mapping[str, torch.Tensor],
    radii: Mapping[str, tuple[int, ...]],
    valid: np.ndarray[Any, Any],
    bounds: tuple[int, int],
) -> dict[str, np.ndarray[Any, Any]]:
    of_layer: dict[str, StoredRows] = {}
    computed = {}
    for path, wanted in targets.items():
        layer = wanted.layer or ""
        if layer not in of_layer:
            prefix = f"{layer}/" if layer else ""
            held = {
                name.removeprefix(prefix): rows
                for name, rows in decoded.items()
                if name.startswith(prefix) and "/" not in name.removeprefix(prefix)
            }
            place = f"layer {layer}" if layer else "the output"
            where = f"stored {place}, rows {bounds[0]} to {bounds[1] - 1}"
            of_layer[layer] = StoredRows(held, where, radii.get(layer, ()))
        rows = wanted.target.derive(of_layer[layer], derived[wanted.name])
        rows[~valid] = 0
        computed[path] = rows
    return computed
