"""Add targets to a cache from what it holds, where neither teacher nor data set are at hand."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from geocache.data.cache import Cache, array_path
from geocache.data.writer import CacheWriter
from geocache.errors import MissingTargetError
from geocache.pipeline.arrays import target_array
from geocache.pipeline.derivation import choose_sources, derive_rows
from geocache.pipeline.foundation import publish_whole, writing
from geocache.pipeline.measure import GroupBuffers
from geocache.pipeline.origin import check_not_imported
from geocache.pipeline.plan import missing_bytes, plan_units
from geocache.pipeline.request import BuildReport, Progress
from geocache.pipeline.work import provenance
from geocache.targets import LayerTarget

__all__ = ["derive"]

_BATCH_ROWS = 64


def derive(
    cache: Cache,
    targets: Sequence[LayerTarget],
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> BuildReport:
    """Compute and store targets of a cache that follow from its stored ones; return what was done.

    Raises MissingTargetError, naming what the teacher must run for, when one of them does not
    follow from what the cache holds for all its rows, CacheError when one of them is a part of an
    import; nothing is stored then.
    """
    started = time.monotonic()
    tell = progress or (lambda phase, done, total: None)
    n_rows = cache.n_built("valid")
    available = tuple(name for name in cache.target_names() if cache.n_built(name) >= n_rows)
    wanted = {t.name: t for t in targets if t.name not in available}
    derived = choose_sources(wanted, available)
    from_teacher = tuple(name for name in wanted if name not in derived)
    if from_teacher:
        raise MissingTargetError(
            f"the teacher must run for {', '.join(from_teacher)}: cache {cache.key[:12]} holds "
            f"{', '.join(available) or 'nothing'} whole, from which it does not follow. Run "
            "`geocache build` with the data set and the teacher."
        )
    layouts = {}
    for name, found in wanted.items():
        prefix = f"{found.layer}/" if found.layer else ""
        # Any target of the layer remembers the tapped shape.
        held = next(n for n in available if n.rpartition("/")[0] == prefix.rstrip("/"))
        shape = cache.layouts[array_path(held)].attributes["geocache"]["tapped_shape"]
        layouts[array_path(name)] = target_array(found, tuple(shape), cache.n_rows, cache.n_views)
    committed = {path: cache.receipts(layout) for path, layout in layouts.items()}
    units = plan_units(layouts.values(), committed, n_rows)
    check_not_imported(cache, layouts, layouts)
    report = BuildReport(
        cache.key, cache.path, cache.n_rows, n_rows, len(units), missing_bytes(units, layouts),
        derived=tuple(derived),
    )  # fmt: skip
    if dry_run:
        return report
    writer = CacheWriter(cache.path, provenance("cpu", _BATCH_ROWS, 1))
    by_path = {array_path(name): sources for name, sources in derived.items()}
    n_bytes, n_done = 0, 0
    with writing(cache.path, cache.about):
        for layout in layouts.values():
            writer.declare(layout)
        for unit in units:
            groups = GroupBuffers(writer, layouts, unit.missing, by_path)
            for computed, start, stop in derive_rows(cache, derived, unit.missing, _BATCH_ROWS):
                groups.store(computed, start, stop, {})
            n_bytes += groups.n_bytes
            n_done += unit.stop - unit.start
            tell("deriving", min(n_done, n_rows), n_rows)
        publish_whole(writer, Cache(cache.path))
    return dataclasses.replace(
        report, n_bytes_written=n_bytes, rows_built=n_done, elapsed_s=time.monotonic() - started
    )
