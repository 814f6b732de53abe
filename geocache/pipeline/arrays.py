"""Which arrays a request stands for, and which of them a cache has already in another form."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from geocache.data.cache import Cache, array_path
from geocache.data.layout import ArrayLayout
from geocache.pipeline.measure import IMAGES, VALID, VIEWS
from geocache.pipeline.request import BuildRequest
from geocache.targets import LayerTarget

__all__ = ["image_arrays", "target_array", "wanted_arrays", "without_longer_lists"]

_SMALL_IMAGE_BYTES = 64 * 64 * 3


def wanted_arrays(
    request: BuildRequest,
    shapes: Mapping[str, tuple[int, ...]],
    image_shape: tuple[int, int, int],
) -> dict[str, ArrayLayout]:
    """Return the layout of every array that is asked for, by path."""
    n_rows = len(request.dataset)
    layouts = image_arrays(n_rows, image_shape, request.images)
    for wanted in request.targets:
        layout = target_array(wanted, shapes[wanted.layer or ""], n_rows, request.views.count)
        layouts[layout.path] = layout
    policy = request.views.policy
    if policy.columns:
        n_bytes = len(policy.columns) * np.dtype(policy.dtype).itemsize
        layouts[VIEWS] = ArrayLayout(
            path=VIEWS,
            dtype=policy.dtype,
            n_rows=n_rows,
            row_shape=(len(policy.columns),),
            row_axes=("parameter",),
            bytes_per_row=n_bytes,
            n_views=request.views.count,
            attributes={"parameters": list(policy.columns)},
        )
    return layouts


def image_arrays(
    n_rows: int, image_shape: tuple[int, int, int], images: bool | None
) -> dict[str, ArrayLayout]:
    """Return `valid` and, where pixels are stored, `images`; None stores them up to 64 x 64."""
    layouts = {VALID: ArrayLayout(VALID, "bool", n_rows, (), (), 1)}
    n_bytes = int(np.prod(image_shape))
    if images or (images is None and n_bytes <= _SMALL_IMAGE_BYTES):
        axes = ("y", "x", "channel")
        layouts[IMAGES] = ArrayLayout(IMAGES, "uint8", n_rows, image_shape, axes, n_bytes)
    return layouts


def target_array(
    wanted: LayerTarget, shape: tuple[int, ...], n_rows: int, n_views: int = 1
) -> ArrayLayout:
    """Return the layout of a target that is measured on tensors of `shape` an image.

    Raises ShapeError or ConfigError when the target is not defined on that shape.
    """
    storage = wanted.target.storage(shape)
    own = {
        "kind": wanted.target.kind,
        "parameters": wanted.target.parameters,
        "layer": wanted.layer,
        "tapped_shape": list(shape),
    }
    return ArrayLayout(
        path=array_path(wanted.name),
        dtype=storage.dtype,
        n_rows=n_rows,
        row_shape=storage.shape,
        row_axes=storage.axes,
        bytes_per_row=storage.bytes_per_row,
        n_views=n_views,
        packed=storage.packed,
        attributes={**storage.attributes, "geocache": own},
    )


def without_longer_lists(
    layouts: Mapping[str, ArrayLayout], cache: Cache, n_asked: int, n_views: int = 1
) -> dict[str, ArrayLayout]:
    """Leave out neighbour lists that are the front of a longer one in the cache."""
    kept = {}
    for path, layout in layouts.items():
        front, is_list, k = path.rpartition("/knn.k")
        longer = [
            other
            for other in cache.layouts
            if is_list and other.startswith(f"{front}/knn.k")
            and int(other.rpartition(".k")[2]) > int(k)
            and cache.n_built(other.removeprefix("targets/"), n_views) >= n_asked
        ]  # fmt: skip
        if not longer:
            kept[path] = layout
    return kept
