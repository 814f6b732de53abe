"""Write a cache of random rows in the real format, as large as one likes, without a teacher."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from geocache.data.cache import Cache, array_path
from geocache.data.files import Files, using_files
from geocache.data.layout import FORMAT_VERSION, ArrayLayout
from geocache.data.views import ViewSet
from geocache.data.writer import CacheWriter, create_cache, small_layout

__all__ = ["write_cache"]

N_CLASSES = 10


class _Unsynced(Files):
    """Files that a power cut may take: nobody misses them here."""

    def sync(self, path: Path) -> None:
        """Do nothing."""

    def sync_folder(self, path: Path) -> None:
        """Do nothing."""


def write_cache(path: Path, n_rows: int, side: int = 8) -> Cache:
    """Write images of side x side, their labels, and logits; return the cache, opened."""
    views = asdict(ViewSet().identity())
    teacher = {"mean": [0.5] * 3, "std": [0.25] * 3}
    about: dict[str, Any] = {
        "key": f"{n_rows:064x}",
        "identity": {"format": FORMAT_VERSION, "teacher": teacher, "data": "noise", "views": views},
        "classes": [f"class{number}" for number in range(N_CLASSES)],
        "n_rows": n_rows,
        "image_shape": [side, side, 3],
    }
    axes = ("y", "x", "channel")
    images = ArrayLayout("images", "uint8", n_rows, (side, side, 3), axes, 3 * side**2)
    own = {"kind": "logits", "parameters": {"dtype": "float16"}, "layer": None,
           "tapped_shape": [N_CLASSES]}  # fmt: skip
    logits = ArrayLayout(
        array_path("logits"), "float16", n_rows, (N_CLASSES,), ("class",), 2 * N_CLASSES, 1,
        attributes={"geocache": own},
    )  # fmt: skip
    valid = ArrayLayout("valid", "bool", n_rows, (), (), 1)
    rng = np.random.default_rng(0)
    with using_files(_Unsynced()):
        create_cache(path, about)
        writer = CacheWriter(path, {})
        labels = rng.integers(0, N_CLASSES, n_rows)
        writer.replace(small_layout("labels", labels), labels)
        for layout in (images, logits, valid):
            writer.declare(layout)
            for group in layout.groups():
                shape = (group.stop - group.start, *layout.row_shape)
                values = rng.integers(0, 256, shape).astype(layout.dtype)
                writer.commit(layout, group, np.ones_like(values) if layout is valid else values)
            writer.publish(layout)
    return Cache(path)
