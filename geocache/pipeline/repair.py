"""Put a damaged cache right: rewrite what follows from the rest, compute the other rows again.

What is damaged is removed first; what is then missing is computed as it was before: by the teacher
or from the same stored sources, in batches of the same size. With the same libraries the cache ends
byte for byte as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from geocache.data.cache import Cache, target_name
from geocache.data.cached_images import CachedImages
from geocache.data.dataset import ImageDataset
from geocache.data.documents import parse_name, right_layout
from geocache.data.findings import ROWS_ARRAYS, Finding
from geocache.data.identity import row_order
from geocache.data.images import ImageSpec
from geocache.data.layout import ArrayLayout
from geocache.data.objects import Address, Objects, open_objects
from geocache.data.store import group_metadata
from geocache.data.writer import CacheWriter, small_layout
from geocache.errors import CacheError, StorageError
from geocache.pipeline.arrays import image_arrays, target_array
from geocache.pipeline.evaluation import store_evaluation
from geocache.pipeline.executors import serial
from geocache.pipeline.foundation import publish_whole
from geocache.pipeline.measure import IMAGES, VALID
from geocache.pipeline.plan import plan_units
from geocache.pipeline.repair_means import (
    Means,
    check_datasets,
    check_origins,
    given_datasets,
    is_target,
)
from geocache.pipeline.request import Progress
from geocache.pipeline.restore_root import restore_root
from geocache.pipeline.teacher import fitting_teacher, spec_of
from geocache.pipeline.told_receipts import ToldReceipts, device_of
from geocache.pipeline.work import Job, Outcome, provenance
from geocache.targets import target_from_name

__all__ = ["Means", "repair_cache"]


def repair_cache(address: Address, damage: Sequence[Finding], means: Means, tell: Progress) -> None:
    """Put right what was found.

    Raises before anything is changed: CacheError when someone else writes the cache or rows were
    imported, DataError when the data set is needed and not given, CheckpointError when the
    teacher's weights are.
    """
    objects = open_objects(address)
    with objects.alone() as alone:
        # A bucket cannot tell, and doing work twice harms nothing there.
        if not alone and not isinstance(objects.root, str):
            raise CacheError(
                f"a cache under repair must not be written by others, got a builder at work "
                f"({address}). Wait for it, then repair."
            )
        if any(finding.repair == "identity" for finding in damage):
            restore_root(objects, means.root)
        _Repair(Cache(address), damage, means, tell).run()


class _Repair:
    def __init__(
        self, cache: Cache, damage: Sequence[Finding], means: Means, tell: Progress
    ) -> None:
        self.cache, self.damage, self.means, self.tell = cache, damage, means, tell
        self.objects: Objects = cache.objects
        self.damaged = sorted(
            {f.array for f in damage if f.array is not None and f.repair not in ("rewrite", "-")}
        )
        size = cache.identity["data"]["image"]["size"]
        self.image = ImageSpec(None if size is None else tuple(size))
        self.told = ToldReceipts(self.objects)

    def run(self) -> None:
        training, evaluations = given = given_datasets(self.cache, self.means)
        check_origins(self.cache, self.damaged, self.told)
        targets = [path for path in self.damaged if is_target(path)]
        check_datasets(self.cache, self.damaged, self.told, self.means, given)
        if any(self.told.derived_from(path) is None for path in targets):
            fitting_teacher(self.cache, self.means.weights)
        self._rewrite(targets)
        stops = {path: self._cut(path) for path in self.damaged}
        cache = Cache(self.cache.path)
        if training is None:
            dataset: ImageDataset = CachedImages(cache)
            order = np.arange(cache.n_rows)
        else:
            dataset, order = training, row_order(training.digests(), training.labels)
            self._write_rows(training, order)
        for name, split in evaluations.items():
            if any(path.startswith(f"eval/{name}/") for path in self.damaged):
                writer = self._writer(f"eval/{name}/images")
                store_evaluation(writer, split, self.image, cache.image_shape, True, self.tell)
        self._compute(stops, dataset, order)
        publish_whole(self._writer(""), Cache(self.cache.path))

    def _rewrite(self, targets: Iterable[str]) -> None:
        """Put the documents right that follow from other documents; drop those that do not."""
        for finding in self.damage:
            path, key = finding.array, finding.key
            if finding.repair == "rewrite" and path is None:
                self.objects.put(key, group_metadata({}))
        for path in dict.fromkeys(f.array for f in self.damage if f.array is not None):
            declared, shown = f"meta/arrays/{path}/zarr.json", f"{path}/zarr.json"
            right = right_layout(path, self._get(declared), self._get(shown), self.told.sound(path))
            for key in (declared, shown):
                held = self._get(key)
                if right is None:
                    self.objects.delete(key)
                elif held != right and (key == declared or held is not None):
                    self.objects.put(key, right)
        lost = [p for p in targets if not self.objects.exists(f"meta/arrays/{p}/zarr.json")]
        writer = self._writer("")
        for layout in self._layouts_of(lost):
            writer.declare(layout)
        for path in (IMAGES, VALID):
            if path in self.damaged:
                n_rows, shape = self.cache.n_rows, self.cache.image_shape
                writer.declare(image_arrays(n_rows, shape, path == IMAGES)[path])

    def _layouts_of(self, paths: Sequence[str]) -> list[ArrayLayout]:
        if not paths:
            return []
        found = {path: target_from_name(target_name(path)) for path in paths}
        layers = tuple(sorted({t.layer for t in found.values() if t.layer}))
        with fitting_teacher(self.cache, self.means.weights).tap(layers) as teacher:
            shapes = teacher.shapes()
        n_rows = self.cache.n_rows
        return [target_array(t, shapes[t.layer or ""], n_rows) for t in found.values()]

    def _cut(self, path: str) -> int:
        """Remove the damaged row groups of an array; return up to which row it was committed."""
        stop = 0
        groups = set()
        layout = Cache(self.cache.path).layouts.get(path)
        for finding in self.damage:
            if finding.array == path and finding.rows is not None and layout is not None:
                groups.add(finding.rows[0] // layout.group_rows)
                stop = max(stop, finding.rows[1])
        for name in self.told.names(path):
            place = parse_name(name)
            if place is None or layout is None:
                continue
            _, index, n_rows = place
            stop = max(stop, index * layout.group_rows + (n_rows or 0))
            if index in groups:
                self.objects.delete(f"{layout.receipts}/{name}")
        if layout is not None:
            for group in layout.groups():
                if group.index in groups:
                    self.objects.delete(layout.object_key(group))
        return stop

    def _write_rows(self, dataset: ImageDataset, order: Int64[np.ndarray, " n"]) -> None:
        rows = {
            "labels": (dataset.labels[order], ()),
            "dataset_index": (order, ()),
            "sample_id": (dataset.digests()[order], ("byte",)),
        }
        for name in ROWS_ARRAYS:
            if name in self.damaged:
                values, axes = rows[name]
                self._writer(name).replace(small_layout(name, values, axes), values)

    def _compute(
        self, stops: Mapping[str, int], dataset: ImageDataset, order: Int64[np.ndarray, " n"]
    ) -> None:
        """Build the row groups that are missing, array by array as each was built."""
        cache = Cache(self.cache.path)
        by_way: dict[tuple[Any, ...], list[str]] = {}
        for path in self.damaged:
            if path in (IMAGES, VALID) or is_target(path):
                own = self.told.provenance(path)
                # Pixels before targets, targets before what is derived from them.
                rank = 0 if path in (IMAGES, VALID) else 2 if self.told.derived_from(path) else 1
                way = (rank, stops[path], device_of(own), own["batch_size"], own["threads"])
                by_way.setdefault(way, []).append(path)
        for (_, stop, device, batch_size, n_threads), paths in sorted(by_way.items()):
            layouts = {path: cache.layouts[path] for path in paths}
            sources = {target_name(path): self.told.derived_from(path) for path in paths}
            committed = {path: cache.receipts(layout) for path, layout in layouts.items()}
            job = Job(
                cache_path=self.cache.path,
                teacher=spec_of(cache, self.means.weights),
                weights_digest=cache.identity["teacher"]["weights"],
                dataset=dataset,
                image=self.image,
                image_shape=cache.image_shape,
                layouts=layouts,
                batch_size=batch_size,
                n_threads=n_threads,
                derived={name: found for name, found in sources.items() if found is not None},
                device=device,
                skip_bad=True,
                views=cache.views,
                alone=True,
            )
            threads = torch.get_num_threads()
            try:
                serial.run(job, plan_units(layouts.values(), committed, stop), order, _report)
            finally:
                torch.set_num_threads(threads)

    def _writer(self, path: str) -> CacheWriter:
        own = self.told.provenance(path)
        known = provenance(device_of(own), own["batch_size"], own["threads"])
        return CacheWriter(self.cache.path, known)

    def _get(self, key: str) -> bytes | None:
        try:
            return self.objects.get(key)
        except CacheError:
            return None


def _report(outcome: Outcome) -> None:
    if outcome.error is not None:
        raise (StorageError if outcome.fatal else CacheError)(outcome.error)
