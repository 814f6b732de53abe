"""What a cache stands on before it has targets: its rows, its classes, room on the disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from geocache.data.cache import Cache
from geocache.data.dataset import ImageDataset
from geocache.data.leftovers import remove_leftovers
from geocache.data.objects import Address, Objects, open_objects
from geocache.data.store import layout_from
from geocache.data.writer import CacheWriter, create_cache, small_layout, update_classes
from geocache.errors import DataError, StorageError
from geocache.pipeline.plan import plan_units

__all__ = ["check_classes", "check_disk", "publish_whole", "write_rows", "writing"]


@contextmanager
def writing(path: Address, about: Mapping[str, Any]) -> Iterator[None]:
    """Create the cache unless it exists, and count among its writers meanwhile.

    Nobody else at work, what writers that died left behind is removed first.
    """
    objects = open_objects(path)
    while True:
        with objects.writing():  # Or who removes leftovers would take the new root for one.
            cache = create_cache(path, about)
        with cache.objects.alone() as alone:
            if alone:
                remove_leftovers(cache)
        with cache.objects.writing():
            if cache.objects.exists("zarr.json"):  # Else a collector removed it in between.
                yield
                return


def check_classes(dataset: ImageDataset, evaluation: ImageDataset | None) -> None:
    """Refuse an evaluation split whose labels mean other classes, as with a folder missing."""
    if evaluation is None or not dataset.classes:
        return
    theirs = evaluation.classes
    if theirs != dataset.classes[: len(theirs)]:
        first = next(i for i, name in enumerate(theirs) if name not in dataset.classes[i : i + 1])
        ours = dataset.classes[first] if first < len(dataset.classes) else "no class at all"
        raise DataError(
            f"the evaluation split's classes must be the training split's, got '{theirs[first]}' "
            f"as number {first}, where the training split has {ours} "
            f"({evaluation.name}/{evaluation.split}). Give both splits the same class folders."
        )


def check_disk(objects: Objects, planned: int) -> None:
    """Raise StorageError when the disk has no room for the planned bytes."""
    free = objects.free_bytes()
    if free is not None and planned > free:
        raise StorageError(
            f"the disk must hold up to {planned / 1e6:.0f} MB more, got {free / 1e6:.0f} MB free "
            f"(in {objects.root}). Free some space, choose another --store, or give --limit."
        )


def write_rows(
    writer: CacheWriter,
    dataset: ImageDataset,
    digests: UInt8[np.ndarray, "n 32"],
    order: Int64[np.ndarray, " n"],
) -> None:
    """Write what each row is: its label, its place in the data set and its content's digest."""
    if dataset.classes:
        update_classes(Cache(writer.objects.root), dataset.classes)
    for name, rows, axes in (
        ("labels", dataset.labels[order], ()),
        ("dataset_index", order, ()),
        ("sample_id", digests[order], ("byte",)),
    ):
        writer.replace(small_layout(name, rows, axes), rows)


def publish_whole(writer: CacheWriter, cache: Cache) -> None:
    """Show every array that has become whole, and make durable what counts of the others."""
    for path, layout in cache.layouts.items():
        key = f"{path}/zarr.json"
        if writer.objects.exists(key) and layout_from(path, writer.objects.get(key)) == layout:
            writer.objects.keep_names(path)
        elif plan_units([layout], {path: cache.receipts(layout)}, layout.n_rows):
            writer.objects.keep_names(layout.receipts)
        else:
            writer.publish(layout)
