"""Build a cache: find or create the one with this identity, and compute what it lacks.

Nothing is computed twice: the plan is the difference between what is asked for and what stands
under a receipt. A unit that fails is reported with its rows and its reason; the others are built.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64

from geocache.data.cache import Cache, target_name
from geocache.data.catalog import cache_folder, store_root
from geocache.data.identity import (
    DataIdentity,
    ViewIdentity,
    cache_key,
    data_digest,
    identity_document,
    row_order,
)
from geocache.data.images import image_size
from geocache.data.objects import Address, open_objects
from geocache.data.writer import CacheWriter, create_cache
from geocache.errors import ConfigError
from geocache.pipeline.arrays import wanted_arrays, without_longer_lists
from geocache.pipeline.derivation import choose_sources
from geocache.pipeline.evaluation import store_evaluation
from geocache.pipeline.foundation import (
    check_classes,
    check_disk,
    publish_whole,
    write_rows,
)
from geocache.pipeline.measure import IMAGES, VALID
from geocache.pipeline.plan import Unit, missing_bytes, plan_units
from geocache.pipeline.request import BuildReport, BuildRequest, Failure, Progress
from geocache.pipeline.teacher import Teacher, TeacherSpec, check_probe
from geocache.pipeline.work import Job, Outcome, provenance

__all__ = ["BuildReport", "BuildRequest", "Failure", "build"]


def build(request: BuildRequest, progress: Progress | None = None) -> BuildReport:
    """Build what the cache of this teacher and data lacks, and return what was done.

    progress is called with (phase, done, total). Work that fails is in the report's `failures`.

    Raises ConfigError, UnknownNameError, ShapeError, CheckpointError or DataError for a request
    that cannot work, CacheError when the teacher does not behave as the cache remembers,
    StorageError when the disk cannot hold the result; nothing is left half-written.
    """
    started = time.monotonic()
    tell = progress or (lambda phase, done, total: None)
    dataset = request.dataset
    check_classes(dataset, request.evaluation)
    digests = dataset.digests(lambda done: tell("reading", done, len(dataset)))
    order = row_order(digests, dataset.labels)
    # The teacher sees RGB of one size; another size later on is an error that names the sample.
    image_shape = (*image_size(dataset, request.image), 3)
    teacher_spec = _teacher_spec(request, image_shape)
    device = _device(request.device)
    layers = tuple(sorted({t.layer for t in request.targets if t.layer}))
    with Teacher(teacher_spec, device).tap(layers) as teacher:
        document = identity_document(
            teacher.identity(),
            DataIdentity(data_digest(digests), len(dataset), request.image.to_json()),
            ViewIdentity(),
        )
        probe, shapes = teacher.probe(), teacher.shapes()
    key = cache_key(document)
    path = cache_folder(store_root(request.store), key)
    n_asked = len(dataset) if request.limit is None else min(request.limit, len(dataset))
    layouts = wanted_arrays(request, shapes, image_shape)
    committed: dict[str, dict[tuple[int, int], int]] = {}
    if open_objects(path).exists("zarr.json"):
        cache = Cache(path)
        check_probe(cache.about["probe"], probe, key)
        layouts = without_longer_lists(layouts, cache, n_asked)
        committed = {p: cache.receipts(layout) for p, layout in layouts.items()}
    units = plan_units(layouts.values(), committed, n_asked)
    planned = missing_bytes(units, layouts)
    missing = sorted({m.path for unit in units for m in unit.missing} - {IMAGES, VALID})
    names = [target_name(path) for path in missing]
    derived = choose_sources(names, _complete(path, n_asked))
    from_teacher = tuple(name for name in names if name not in derived)
    report = BuildReport(
        key, path, len(dataset), n_asked, len(units), planned,
        derived=tuple(derived), from_teacher=from_teacher,
    )  # fmt: skip
    if request.dry_run:
        return report
    check_disk(open_objects(path), planned)
    about = {
        "key": key,
        "identity": document,
        "classes": list(dataset.classes),
        "n_rows": len(dataset),
        "image_shape": list(image_shape),
        "probe": probe,
    }
    create_cache(path, about)
    n_threads = request.n_threads or _default_threads(request)
    batch_size = request.batch_size or (64 if device == "cpu" else 512)
    writer = CacheWriter(path, provenance(device, batch_size, n_threads))
    write_rows(writer, dataset, digests, order)
    for layout in layouts.values():
        writer.declare(layout)
    if request.evaluation is not None:
        store_evaluation(
            writer, request.evaluation, request.image, image_shape, request.skip_bad, tell
        )
    job = Job(
        cache_path=str(path),
        teacher=teacher_spec,
        weights_digest=document["teacher"]["weights"],
        dataset=dataset,
        image=request.image,
        image_shape=image_shape,
        layouts=layouts,
        derived=derived,
        batch_size=batch_size,
        n_threads=n_threads,
        device=device,
        skip_bad=request.skip_bad,
    )
    outcomes = _execute(request, job, units, order, tell)
    publish_whole(writer, Cache(path))
    return _finished(report, outcomes, started)


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

        n_workers = min(request.n_workers or _default_workers(request), len(units))
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
        rows_built=sum(o.unit.stop - o.unit.start for o in outcomes if o.error is None),
        elapsed_s=time.monotonic() - started,
        failures=failures,
        bad={row: why for o in outcomes for row, why in o.bad.items()},
    )


def _complete(path: Address, n_asked: int) -> tuple[str, ...]:
    """Return the targets that a cache holds for all rows that are asked for."""
    if not open_objects(path).exists("zarr.json"):
        return ()
    cache = Cache(path)
    return tuple(name for name in cache.target_names() if cache.n_built(name) >= n_asked)


def _teacher_spec(request: BuildRequest, image_shape: tuple[int, int, int]) -> TeacherSpec:
    n_classes = request.n_classes or len(request.dataset.classes)
    if n_classes < 1:
        raise ConfigError(
            "the teacher's number of classes must be given for a data set without labels, got "
            f"none (data set {request.dataset.name}). Set n_classes in [teacher]."
        )
    height, width, channels = image_shape
    return TeacherSpec(
        model=request.model,
        weights=request.weights,
        n_classes=n_classes,
        input_shape=(channels, height, width),
        mean=tuple(float(m) for m in request.mean),
        std=tuple(float(s) for s in request.std),
        options=tuple(sorted(request.options.items())),
    )


def _device(asked: str) -> str:
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"--device must be one of this machine's, got '{asked}' and no CUDA.")
    return asked


def _default_workers(request: BuildRequest) -> int:
    if _device(request.device) != "cpu":
        return max(1, torch.cuda.device_count())
    return max(1, (os.cpu_count() or 1) // (request.n_threads or 1))


def _default_threads(request: BuildRequest) -> int:
    """One thread for each of Dask's processes, all cores for the serial executor."""
    return 1 if request.executor == "dask" else torch.get_num_threads()
