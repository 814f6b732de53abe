"""The cache that an import fills: one that stands, or one whose teacher is the array itself.

Weights are what makes a teacher this teacher; of an array it is the content, in the order of the
cache's rows, so that the same array saved again or in another order gives the same cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from geocache.data.cache import Cache, open_cache
from geocache.data.catalog import cache_folder, store_root
from geocache.data.dataset import ImageDataset
from geocache.data.identity import (
    DataIdentity,
    TeacherIdentity,
    ViewIdentity,
    cache_key,
    data_digest,
    identity_document,
    row_order,
)
from geocache.data.images import image_size
from geocache.data.layout import ArrayLayout
from geocache.data.objects import Address, open_objects
from geocache.data.writer import CacheWriter
from geocache.errors import DataError, StorageError
from geocache.pipeline.arrays import image_arrays
from geocache.pipeline.evaluation import store_evaluation
from geocache.pipeline.executors import serial
from geocache.pipeline.foundation import check_classes, check_disk, write_rows, writing
from geocache.pipeline.import_order import Rows
from geocache.pipeline.import_request import ImportRequest
from geocache.pipeline.plan import Unit, missing_bytes, plan_units
from geocache.pipeline.request import Progress
from geocache.pipeline.work import Job, Outcome

__all__ = ["ArrayCache", "StandingCache", "cache_for"]

_BATCH_ROWS = 64
"""Images decoded at a time."""


def cache_for(request: ImportRequest, tell: Progress) -> StandingCache | ArrayCache:
    """Return the cache that is to be filled, as far as it is known before the array is read."""
    if request.dataset is not None:
        return ArrayCache(request, request.dataset, tell)
    return StandingCache(open_cache(str(request.cache), request.store))


class StandingCache:
    """A cache that was built or imported before."""

    def __init__(self, cache: Cache) -> None:
        """Read what its rows are."""
        self.cache = cache
        self.rows = Rows(
            labels=cache.labels,
            dataset_index=cache.dataset_index,
            sample_id=cache.sample_id,
            n_classes=len(cache.classes),
            where=f"cache {cache.key[:12]}",
        )

    def open(
        self, sha256: str, targets: Mapping[str, ArrayLayout], receipt: Mapping[str, Any]
    ) -> Cache:
        """Return the cache; nothing of it depends on the array."""
        return self.cache


class ArrayCache:
    """The cache of an array and a data set; `rows` are known before its key is."""

    def __init__(self, request: ImportRequest, dataset: ImageDataset, tell: Progress) -> None:
        """Read the data set's digests; raises DataError for an evaluation split of others."""
        check_classes(dataset, request.evaluation)
        self.request, self.dataset, self.tell = request, dataset, tell
        self.digests = dataset.digests(lambda done: tell("reading", done, len(dataset)))
        order = row_order(self.digests, dataset.labels)
        self.rows = Rows(
            labels=dataset.labels[order],
            dataset_index=order,
            sample_id=self.digests[order],
            n_classes=len(dataset.classes),
            where=f"data set {dataset.name}/{dataset.split}",
        )

    def open(
        self, sha256: str, targets: Mapping[str, ArrayLayout], receipt: Mapping[str, Any]
    ) -> Cache:
        """Find or create the cache, with its rows and, where they are stored, its images.

        sha256: of the array in the order of `rows`. targets: what will be imported, so that the
        disk can be asked for room. receipt: what stands in every receipt.

        Raises DataError for images that cannot be read unless the request's `skip_bad`,
        StorageError when the disk is full.
        """
        request, dataset = self.request, self.dataset
        image_shape = (*image_size(dataset, request.image), 3)
        document = identity_document(
            TeacherIdentity(
                model=f"imported:{request.teacher or Path(request.name).stem}",
                options={},
                n_classes=len(dataset.classes),
                weights=sha256,
                mean=tuple(float(m) for m in request.mean),
                std=tuple(float(s) for s in request.std),
            ),
            DataIdentity(data_digest(self.digests), len(dataset), request.image.to_json()),
            ViewIdentity(),
        )
        key = cache_key(document)
        path = cache_folder(store_root(request.store), key)
        layouts = image_arrays(len(dataset), image_shape, request.images)
        about = {
            "key": key,
            "identity": document,
            "classes": list(dataset.classes),
            "n_rows": len(dataset),
            "image_shape": list(image_shape),
            "probe": [],
        }
        committed = {}
        if open_objects(path).exists("zarr.json"):
            committed = {p: Cache(path).receipts(layout) for p, layout in layouts.items()}
        units = plan_units(layouts.values(), committed, len(dataset))
        needed = missing_bytes(units, layouts)
        if not committed:
            every = plan_units(targets.values(), {}, len(dataset))
            needed += missing_bytes(every, targets)
        check_disk(open_objects(path), needed)
        with writing(path, about):
            writer = CacheWriter(path, receipt)
            write_rows(writer, dataset, self.digests, self.rows.dataset_index)
            for layout in layouts.values():
                writer.declare(layout)
            if request.evaluation is not None:
                store_evaluation(
                    writer, request.evaluation, request.image, image_shape, request.skip_bad,
                    self.tell,
                )  # fmt: skip
            self._store_images(path, layouts, units, image_shape)
        return Cache(path)

    def _store_images(
        self,
        path: Address,
        layouts: dict[str, ArrayLayout],
        units: list[Unit],
        image_shape: tuple[int, int, int],
    ) -> None:
        done = 0

        def report(outcome: Outcome) -> None:
            nonlocal done
            if outcome.error is not None:
                raise (StorageError if outcome.fatal else DataError)(outcome.error)
            done += outcome.unit.stop - outcome.unit.start
            self.tell("images", done, len(self.dataset))

        job = Job(
            cache_path=path,
            teacher=None,
            weights_digest="",
            dataset=self.dataset,
            image=self.request.image,
            image_shape=image_shape,
            layouts=layouts,
            derived={},
            batch_size=_BATCH_ROWS,
            n_threads=torch.get_num_threads(),
            skip_bad=self.request.skip_bad,
        )
        serial.run(job, units, self.rows.dataset_index, report)
