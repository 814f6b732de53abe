"""Build a cache: find or create the one with this identity, and compute what it lacks.

Nothing is computed twice: the plan is the difference between what is asked for and what stands
under a receipt. A unit that fails is reported with its rows and its reason; the others are built.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64

from geocache.data.cache import Cache
from geocache.data.objects import open_objects
from geocache.data.writer import CacheWriter
from geocache.pipeline.evaluation import store_evaluation
from geocache.pipeline.foundation import check_disk, publish_whole, write_rows, writing
from geocache.pipeline.plan import Unit
from geocache.pipeline.prepare import default_workers, prepare
from geocache.pipeline.request import BuildReport, BuildRequest, Failure, Progress
from geocache.pipeline.work import Job, Outcome, provenance

__all__ = ["BuildReport", "BuildRequest", "Failure", "build"]


def build(request: BuildRequest, progress: Progress | None = None) -> BuildReport:
    """Build what the cache of this teacher and data lacks, and return what was done.

    progress is called with (phase, done, total). Work that fails is in the report's `failures`.
    Builders of one cache share its work; what one of them that died left behind is removed.

    Raises ConfigError, UnknownNameError, ShapeError, CheckpointError or DataError for a request
    that cannot work, CacheError when the teacher does not behave as the cache remembers or a target
    was begun by an import, StorageError when the disk cannot hold the result; nothing is left
    half-written.
    """
    started = time.monotonic()
    tell = progress or (lambda phase, done, total: None)
    plan = prepare(request, tell)
    if request.dry_run:
        return plan.report
    check_disk(open_objects(plan.path), plan.report.n_bytes_planned)
    with writing(plan.path, plan.about):
        job = plan.job
        writer = CacheWriter(plan.path, provenance(job.device, job.batch_size, job.n_threads))
        write_rows(writer, request.dataset, plan.digests, plan.order)
        for layout in job.layouts.values():
            writer.declare(layout)
        if request.evaluation is not None:
            store_evaluation(
                writer, request.evaluation, request.image, job.image_shape, request.skip_bad, tell
            )
        outcomes = _execute(request, job, plan.units, plan.order, tell)
        publish_whole(writer, Cache(plan.path))
    return _finished(plan.report, outcomes, started)


def _execute(
    request: BuildRequest,
    job: Job,
    units: Sequence[Unit],
    order: Int64[np.ndarray, " n"],
    tell: Progress,
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    total = sum(unit.stop - unit.start for unit in units)
    done = 0

    def report(outcome: Outcome) -> None:
        nonlocal done
        outcomes.append(outcome)
        done += outcome.unit.stop - outcome.unit.start
        tell("building", done, total)

    if not units:
        return outcomes
    tell("building", 0, total)
    if request.executor == "serial":
        from geocache.pipeline.executors import serial

        threads = torch.get_num_threads()
        try:
            serial.run(job, units, order, report)
        finally:
            torch.set_num_threads(threads)
    else:
        from geocache.pipeline.executors import dask

        n_workers = min(request.n_workers or default_workers(request), len(units))
        dask.run(job, units, order, report, n_workers=n_workers, scheduler=request.scheduler)
    return outcomes


def _finished(report: BuildReport, outcomes: Sequence[Outcome], started: float) -> BuildReport:
    failures = tuple(
        Failure(o.unit.view, o.unit.start, o.unit.stop, o.error)
        for o in sorted(outcomes, key=lambda o: (o.unit.view, o.unit.start))
        if o.error is not None
    )
    return dataclasses.replace(
        report,
        n_bytes_written=sum(o.n_bytes for o in outcomes),
        rows_built=sum(
            o.unit.stop - o.unit.start
            for o in outcomes
            if o.error is None and o.unit.missing  # Else another builder had done it all.
        ),
        elapsed_s=time.monotonic() - started,
        failures=failures,
        bad={row: why for o in outcomes for row, why in o.bad.items()},
    )
