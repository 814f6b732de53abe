"""The views of a unit's images: their parameters from the samples' digests, their pixels."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from geocache.data.cache import Cache
from geocache.data.views import ViewSet, make_views
from geocache.pipeline.plan import Unit

__all__ = ["UnitViews"]


class UnitViews:
    """What the teacher sees of the rows of one unit."""

    def __init__(
        self, views: ViewSet, cache: Cache, unit: Unit, image_shape: tuple[int, int, int]
    ) -> None:
        """Draw for the unit's view; the samples' digests stand in the cache before any target."""
        self._views, self._cache, self._unit = views, cache, unit
        self._image_shape = image_shape

    @cached_property
    def _drawn(self) -> Shaped[np.ndarray, "rows columns"]:
        unit = self._unit
        digests = self._cache.read("sample_id", unit.start, unit.stop)
        return self._views.parameters(digests, unit.view, self._image_shape)

    def parameters(self, start: int, stop: int) -> Shaped[np.ndarray, "rows columns"]:
        """Return the parameters of rows [start, stop)."""
        return self._drawn[start - self._unit.start : stop - self._unit.start]

    def make(
        self, images: UInt8[np.ndarray, "batch height width 3"], start: int
    ) -> UInt8[np.ndarray, "batch height2 width2 3"]:
        """Return the views of a batch that begins at row `start`; padding repeats the last row."""
        if self._views.is_plain:
            return images
        rows = self.parameters(start, min(start + len(images), self._unit.stop))
        padding: list[Any] = [rows[-1:]] * (len(images) - len(rows))
        return make_views(self._views.policy, images, np.concatenate([rows, *padding]))
