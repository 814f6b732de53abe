"""Keep a copy of the evaluation split in the cache, so that training needs no data set at all."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from geocache.data.cache import Cache
from geocache.data.dataset import ImageDataset
from geocache.data.identity import data_digest, row_order
from geocache.data.images import ImageSpec, read_rows
from geocache.data.layout import ArrayLayout
from geocache.data.writer import CacheWriter, small_layout
from geocache.errors import DataError

__all__ = ["store_evaluation"]


def store_evaluation(
    writer: CacheWriter,
    dataset: ImageDataset,
    image: ImageSpec,
    image_shape: tuple[int, int, int],
    skip_bad: bool,
    tell: Callable[[str, int, int], None],
) -> str:
    """Store images and labels of a split under a name made of its content; return the name.

    Committed row groups are not written again; corrected labels are. Bad images carry label -1.

    Raises DataError for an unreadable image unless `skip_bad`, or for images of another size.
    """
    digests = dataset.digests()
    order = row_order(digests, dataset.labels)
    name = data_digest(digests)[:16]
    n_bytes = int(np.prod(image_shape))
    axes = ("y", "x", "channel")
    path = f"eval/{name}/images"
    layout = ArrayLayout(path, "uint8", len(dataset), image_shape, axes, n_bytes)
    writer.declare(layout)
    committed = Cache(writer.objects.root).receipts(layout)
    labels = dataset.labels[order].copy()
    for group in layout.groups():
        if committed.get((group.view, group.index), 0) >= group.stop - group.start:
            continue
        chosen = order[group.start : group.stop]
        n_threads = max(2, os.cpu_count() or 1)
        images, bad = read_rows(dataset, chosen, image, n_threads, size=image_shape[:2])
        if bad and not skip_bad:
            raise DataError(
                f"{next(iter(bad.values()))} (evaluation split). Repair or remove it, or give "
                "--skip-bad."
            )
        reasons = {str(group.start + position): why for position, why in bad.items()}
        writer.commit(layout, group, images, {"bad": reasons} if reasons else None)
        tell("evaluation split", group.stop, len(dataset))
    labels[list(Cache(writer.objects.root).left_out(layout))] = -1
    writer.replace(small_layout(f"eval/{name}/labels", labels), labels)
    writer.publish(layout)
    return name
