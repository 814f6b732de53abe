"""Look before a build: load the teacher, name the cache, and say what it lacks. Writes nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from geocache.data.cache import Cache, target_name
from geocache.data.catalog import cache_folder, store_root
from geocache.data.identity import (
    DataIdentity,
    cache_key,
    data_digest,
    identity_document,
    row_order,
)
from geocache.data.images import image_size
from geocache.data.layout import ArrayLayout
from geocache.data.objects import Address, open_objects
from geocache.data.views import CELL_ROWS
from geocache.errors import ConfigError
from geocache.pipeline.arrays import wanted_arrays, without_longer_lists
from geocache.pipeline.derivation import choose_sources
from geocache.pipeline.foundation import check_classes
from geocache.pipeline.measure import IMAGES, VALID, VIEWS
from geocache.pipeline.origin import check_not_imported
from geocache.pipeline.plan import Unit, missing_bytes, plan_units
from geocache.pipeline.request import BuildReport, BuildRequest, Progress
from geocache.pipeline.teacher import Teacher, TeacherSpec, check_probe
from geocache.pipeline.work import Job

__all__ = ["Prepared", "default_workers", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """What a build is going to do, and to which cache."""

    path: Address
    about: Mapping[str, Any]
    """What stands in the cache's `zarr.json`."""
    digests: UInt8[np.ndarray, "n 32"]
    order: Int64[np.ndarray, " n"]
    units: tuple[Unit, ...]
    job: Job
    report: BuildReport


def prepare(request: BuildRequest, tell: Progress) -> Prepared:
    """Return the plan of a build: the difference between what is asked for and what is committed.

    Raises what `build` raises for a request that cannot work, and CacheError when the teacher does
    not behave as the cache remembers, or when a target is a part of an import.
    """
    dataset = request.dataset
    check_classes(dataset, request.evaluation)
    digests = dataset.digests(lambda done: tell("reading", done, len(dataset)))
    # The teacher sees RGB of one size; another size later on is an error that names the sample.
    image_shape = (*image_size(dataset, request.image), 3)
    request.views.policy.check(image_shape)
    view_shape = request.views.policy.output_shape(image_shape)
    teacher_spec = _teacher_spec(request, view_shape)
    device = _device(request.device)
    layers = tuple(sorted({t.layer for t in request.targets if t.layer}))
    with Teacher(teacher_spec, device).tap(layers) as teacher:
        identity = identity_document(
            teacher.identity(),
            DataIdentity(data_digest(digests), len(dataset), request.image.to_json()),
            request.views.identity(),
        )
        probe, shapes = teacher.probe(), teacher.shapes()
    key = cache_key(identity)
    path = cache_folder(store_root(request.store), key)
    n_asked = len(dataset) if request.limit is None else min(request.limit, len(dataset))
    _check_cells(request, n_asked)
    layouts = wanted_arrays(request, shapes, image_shape)
    cache = Cache(path) if open_objects(path).exists("zarr.json") else None
    if cache is not None:
        check_probe(cache.about["probe"], probe, key)
        layouts = without_longer_lists(layouts, cache, n_asked, request.views.count)
    units, derived, report = _plan(request, key, path, cache, layouts)
    job = Job(
        cache_path=path,
        teacher=teacher_spec,
        weights_digest=identity["teacher"]["weights"],
        dataset=dataset,
        image=request.image,
        image_shape=image_shape,
        layouts=layouts,
        derived=derived,
        batch_size=request.batch_size or (64 if device == "cpu" else 512),
        n_threads=request.n_threads or _default_threads(request),
        device=device,
        skip_bad=request.skip_bad,
        views=request.views,
    )
    about = {
        "key": key,
        "identity": identity,
        "classes": list(dataset.classes),
        "n_rows": len(dataset),
        "image_shape": list(image_shape),
        "probe": probe,
    }
    order = row_order(digests, dataset.labels)
    return Prepared(path, about, digests, order, units, job, report)


def _check_cells(request: BuildRequest, n_asked: int) -> None:
    """Refuse rows whose partners would not be built."""
    if request.views.mixing and n_asked % CELL_ROWS and n_asked < len(request.dataset):
        raise ConfigError(
            f"limit must be a multiple of {CELL_ROWS} rows with views by "
            f"'{request.views.policy.name}', which mix rows of such cells, got {n_asked}. "
            f"Take {-(-n_asked // CELL_ROWS) * CELL_ROWS}."
        )


def _plan(
    request: BuildRequest,
    key: str,
    path: Address,
    cache: Cache | None,
    layouts: Mapping[str, ArrayLayout],
) -> tuple[tuple[Unit, ...], dict[str, tuple[str, ...]], BuildReport]:
    n_rows, n_views = len(request.dataset), request.views.count
    n_asked = min(request.limit or n_rows, n_rows)
    committed: dict[str, dict[tuple[int, int], int]] = {}
    whole: tuple[str, ...] = ()
    if cache is not None:
        committed = {p: cache.receipts(layout) for p, layout in layouts.items()}
        whole = tuple(n for n in cache.target_names() if cache.n_built(n, n_views) >= n_asked)
    units = tuple(plan_units(layouts.values(), committed, n_asked))
    missing = {m.path for unit in units for m in unit.missing} - {IMAGES, VALID, VIEWS}
    if cache is not None:
        check_not_imported(cache, layouts, missing)
    names = [target_name(p) for p in sorted(missing)]
    derived = choose_sources(names, whole)
    report = BuildReport(
        key=key,
        path=path,
        n_rows=n_rows,
        n_asked=n_asked,
        n_units=len(units),
        n_bytes_planned=missing_bytes(units, layouts),
        derived=tuple(derived),
        from_teacher=tuple(name for name in names if name not in derived),
    )
    return units, derived, report


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


def default_workers(request: BuildRequest) -> int:
    """Return the processes of a local cluster: one a GPU, or as many as the cores feed."""
    if _device(request.device) != "cpu":
        return max(1, torch.cuda.device_count())
    return max(1, (os.cpu_count() or 1) // (request.n_threads or 1))


def _default_threads(request: BuildRequest) -> int:
    """One thread for each of Dask's processes, all cores for the serial executor."""
    return 1 if request.executor == "dask" else torch.get_num_threads()
