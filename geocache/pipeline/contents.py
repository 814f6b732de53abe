"""Whether what a cache holds can be what it says: every row is decoded, none is computed again."""

from __future__ import annotations

import numpy as np

from geocache.data.cache import Cache, target_name
from geocache.data.findings import Finding, repair_of
from geocache.data.layout import ArrayLayout, Group
from geocache.errors import CacheError
from geocache.pipeline.request import Progress
from geocache.targets import target_from_name

__all__ = ["check_contents"]


def check_contents(cache: Cache, tell: Progress) -> list[Finding]:
    """Decode every committed row group, one in memory at a time; return those that cannot be right.

    Floats must be finite, trees be trees, ids be in range.
    """
    findings = []
    groups = [
        (layout, Group(view, index, index * layout.group_rows, index * layout.group_rows + n_rows))
        for layout in cache.layouts.values()
        for (view, index), n_rows in sorted(cache.receipts(layout).items())
    ]
    for done, (layout, group) in enumerate(groups, 1):
        what = _flaw(cache, layout, group)
        if what is not None:
            rows = (group.start, group.stop)
            key = layout.object_key(group)
            findings.append(Finding(key, layout.path, rows, what, repair_of(layout.path)))
        tell("decoding", done, len(groups))
    return findings


def _flaw(cache: Cache, layout: ArrayLayout, group: Group) -> str | None:
    try:
        rows = cache.read_array(layout.path, group.start, group.stop, group.view)
    except CacheError as error:
        return f"cannot be decoded: {' '.join(str(error).split())}"
    path = layout.path
    if "kind" in layout.attributes.get("geocache", {}) and "~" not in path:
        return target_from_name(target_name(path)).target.flaw(rows)
    if rows.dtype.kind == "f" and not bool(np.isfinite(rows).all()):
        return "holds values that are not finite"  # A user's target: its module is not imported.
    name = path.rpartition("/")[2]
    if name == "labels":
        low, high = int(rows.min(initial=0)), int(rows.max(initial=-1))
        if low < -1 or high >= max(1, len(cache.classes)):
            return f"holds labels from {low} to {high}, of {len(cache.classes)} classes"
    if path == "dataset_index" and not np.array_equal(np.sort(rows), np.arange(len(rows))):
        return "does not hold each position of the data set once"
    return None
