"""Do one unit of a build: decode, run the teacher, measure, commit. Runs in any process.

The teacher always sees whole batches, cut at the same rows of the unit and padded at its end, so a
row's bits do not depend on what else was missing. Images of the next batch are decoded while the
teacher works on this one.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Int64, UInt8
from torch import Tensor

from geocache.data.cache import Cache, array_path, target_name
from geocache.data.dataset import ImageDataset
from geocache.data.images import ImageSpec, read_rows
from geocache.data.layout import ArrayLayout
from geocache.data.objects import Address
from geocache.data.views import ViewSet
from geocache.data.writer import CacheWriter
from geocache.errors import DataError, GeocacheError, StorageError
from geocache.pipeline.derivation import derive_rows
from geocache.pipeline.measure import IMAGES, VALID, VIEWS, GroupBuffers, Measure, stored_trees
from geocache.pipeline.plan import Unit
from geocache.pipeline.teacher import Teacher, TeacherSpec, load_teacher
from geocache.pipeline.unit_views import UnitViews

__all__ = ["BUSY_WAIT_S", "Job", "Outcome", "provenance", "run_unit", "whole_batch"]

BUSY_WAIT_S = 0.2
"""Seconds until another builder's units are asked for again, when nothing else is left."""
_STORED_BYTES = 2**28
"""Images of a unit up to this size are read from the cache rather than decoded again."""


@dataclass(frozen=True)
class Job:
    """What is the same for every unit of a build."""

    cache_path: Address
    teacher: TeacherSpec | None
    """None where images alone are stored."""
    weights_digest: str
    """Which weights the cache is keyed by; a worker that loads others refuses."""
    dataset: ImageDataset
    image: ImageSpec
    image_shape: tuple[int, int, int]
    layouts: dict[str, ArrayLayout]
    batch_size: int
    n_threads: int
    derived: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Targets that follow from stored ones, and from which; the others need the teacher."""
    device: str = "cpu"
    skip_bad: bool = False
    views: ViewSet = field(default_factory=ViewSet)
    alone: bool = False
    """Whether the caller, in this process, keeps every other writer out already."""


@dataclass(frozen=True)
class Outcome:
    """What became of a unit: committed, or why not."""

    unit: Unit
    n_bytes: int = 0
    error: str | None = None
    busy: bool = False
    """Whether another builder is at it, so that it is to be asked for again later."""
    fatal: bool = False
    """Whether every other unit would fail alike, so that going on is pointless."""
    bad: dict[int, str] = field(default_factory=dict)
    """Rows left out, with the reason."""


def provenance(device: str, batch_size: int, n_threads: int) -> dict[str, Any]:
    """Return what stands in every receipt: all that may move a result's last bits."""
    libraries = ("geocache", "torch", "numpy", "zarr", "numcodecs", "numba", "pillow")
    return {
        "device": device if device == "cpu" else torch.cuda.get_device_name(device),
        "machine": platform.machine(),
        "batch_size": batch_size,
        "threads": n_threads,
        "versions": {name: version(name) for name in libraries},
    }


def run_unit(job: Job, unit: Unit, indices: Int64[np.ndarray, " rows"]) -> Outcome:
    """Compute and commit the missing row groups of a unit; errors of the user come back as text.

    indices: the data set's index of each row of the unit.
    """
    # The same count everywhere: torch's results may differ in the last bit between counts.
    if torch.get_num_threads() != job.n_threads:
        torch.set_num_threads(job.n_threads)
    try:
        cache = Cache(job.cache_path)
        name = f"v{unit.view}-r{unit.start:09d}"
        # A worker counts as a writer by itself: it may outlive the builder that sent it.
        counted = nullcontext() if job.alone else cache.objects.writing()
        with counted, cache.objects.claim(name) as ours:
            if not ours:
                return Outcome(unit, busy=True)
            return _Worker(job, cache, _still_missing(cache, unit), indices).run()
    except StorageError as error:
        return Outcome(unit, error=str(error), fatal=True)
    except GeocacheError as error:
        return Outcome(unit, error=str(error))
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return Outcome(unit, error=reason)


def _still_missing(cache: Cache, unit: Unit) -> Unit:
    """Leave out what another builder has committed since the plan was made."""
    missing = tuple(
        m
        for m in unit.missing
        if cache.receipts(cache.layouts[m.path]).get((m.group.view, m.group.index), 0)
        < m.group.stop - m.group.start
    )
    return replace(unit, missing=missing)


def whole_batch(
    images: UInt8[np.ndarray, "rows h w 3"], batch_size: int
) -> UInt8[np.ndarray, "batch h w 3"]:
    """Repeat the last image until the batch is whole.

    A short batch takes another path through some kernels and gives other last bits.
    """
    padding = batch_size - len(images)
    return np.concatenate([images, np.repeat(images[-1:], padding, axis=0)]) if padding else images


@dataclass(frozen=True)
class _Pixels:
    """Images of the rows from `low` on, and why any of those could not be read, by row."""

    low: int
    images: UInt8[np.ndarray, "rows h w 3"]
    bad: Mapping[int, str]


class _Worker:
    def __init__(
        self, job: Job, cache: Cache, unit: Unit, indices: Int64[np.ndarray, " rows"]
    ) -> None:
        self.job, self.cache, self.unit, self.indices = job, cache, unit, indices
        writer = CacheWriter(job.cache_path, provenance(job.device, job.batch_size, job.n_threads))
        self.missing = [m for m in unit.missing if target_name(m.path) not in job.derived]
        """What is computed from the images."""
        self.measure = Measure(m.path for m in self.missing)
        derived = {array_path(name): sources for name, sources in job.derived.items()}
        self.groups = GroupBuffers(writer, job.layouts, unit.missing, derived)
        self.views = UnitViews(job.views, self.cache, unit, job.image_shape)
        self.bad: dict[int, str] = {}

    def run(self) -> Outcome:
        if self.missing:
            self._from_images()
        for computed, start, stop in derive_rows(
            self.cache, self.job.derived, self.unit.missing, self.job.batch_size
        ):
            self.groups.store(computed, start, stop, {})
        return Outcome(self.unit, n_bytes=self.groups.n_bytes, bad=self.bad)

    def _from_images(self) -> None:
        teacher = self._teacher() if self.measure.targets else None
        for start, pixels in self._batches():
            stop = min(start + self.job.batch_size, self.unit.stop)
            bad = {row: why for row, why in pixels.bad.items() if start <= row < stop}
            self.bad.update(bad)
            computed: dict[str, np.ndarray[Any, Any]] = {
                IMAGES: pixels.images[start - pixels.low : stop - pixels.low],
                VALID: np.array([row not in bad for row in range(start, stop)]),
            }
            parameters = self.views.parameters(start, stop, pixels.bad)
            if VIEWS in self.job.layouts:
                computed[VIEWS] = parameters
            if teacher is not None:
                seen = self.views.make(pixels.images, parameters, start)
                tensors = teacher.run(whole_batch(seen, self.job.batch_size))
                positions = [row - start for row in bad]
                trees = self._trees(start, stop)
                computed.update(self.measure(tensors, start, stop, positions, trees))
            self.groups.store(computed, start, stop, self.bad)

    def _teacher(self) -> Teacher:
        job = self.job
        assert job.teacher is not None, "only images can be stored without a teacher"
        return load_teacher(job.teacher, job.weights_digest, job.device, self.measure.layers)

    def _batches(self) -> Iterator[tuple[int, _Pixels]]:
        """Yield (first row, the images that its batch needs), decoding one batch ahead."""
        wanted = [m.group for m in self.missing]
        starts = [
            start
            for start in range(self.unit.start, self.unit.stop, self.job.batch_size)
            if any(start < g.stop and g.start < start + self.job.batch_size for g in wanted)
        ]
        with ThreadPoolExecutor(1) as ahead:
            pending = [ahead.submit(self._decode, start) for start in starts[:1]]
            for i, start in enumerate(starts):
                if i + 1 < len(starts):
                    pending.append(ahead.submit(self._decode, starts[i + 1]))
                yield start, pending.pop(0).result()

    def _decode(self, start: int) -> _Pixels:
        stop = min(start + self.job.batch_size, self.unit.stop)
        low, high = self.views.needed(start, stop)
        images, bad = self._pixels(low, high)
        if bad and not self.job.skip_bad:
            raise DataError(
                f"{next(iter(bad.values()))} ({len(bad)} unreadable in rows {low} to "
                f"{high - 1}). Repair or remove it, or give --skip-bad."
            )
        return _Pixels(low, images, bad)

    def _pixels(
        self, start: int, stop: int
    ) -> tuple[UInt8[np.ndarray, "rows h w 3"], dict[int, str]]:
        """Take images from the cache where it holds them, else from the data set; tell bad rows."""
        first = self.unit.start
        if self._stored_images is not None:
            bad = {row: why for row, why in self._left_out.items() if start <= row < stop}
            return self._stored_images[start - first : stop - first], bad
        chosen = self.indices[start - first : stop - first]
        n_threads = max(2, os.cpu_count() or 1)
        size = self.job.image_shape[:2]
        images, at = read_rows(self.job.dataset, chosen, self.job.image, n_threads, size=size)
        return images, {start + position: why for position, why in at.items()}

    @cached_property
    def _stored_images(self) -> UInt8[np.ndarray, "rows h w 3"] | None:
        """The unit's images as they stand in the cache, None where some do not, or are large."""
        n_bytes = (self.unit.stop - self.unit.start) * math.prod(self.job.image_shape)
        if n_bytes > _STORED_BYTES or any(m.path in (IMAGES, VALID) for m in self.missing):
            return None
        # Another view's unit may just have stored them: look afresh.
        cache = Cache(self.job.cache_path)
        if min(cache.n_built(IMAGES), cache.n_built(VALID)) < self.unit.stop:
            return None
        return self.cache.read(IMAGES, self.unit.start, self.unit.stop)

    @cached_property
    def _left_out(self) -> dict[int, str]:
        return self.cache.left_out(self.cache.layouts[VALID])

    def _trees(self, start: int, stop: int) -> dict[str, Tensor]:
        first = self.unit.start
        return {
            layer: torch.from_numpy(rows[start - first : stop - first])
            for layer, rows in self._stored_trees.items()
        }

    @cached_property
    def _stored_trees(self) -> dict[str, Int[np.ndarray, "rows n"]]:
        return stored_trees(self.cache, self.unit, self.measure.layers)
