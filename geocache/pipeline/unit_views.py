"""The views of a unit's images: their parameters from the samples' digests, their pixels."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property

import numpy as np
from jaxtyping import Shaped, UInt8

from geocache.data.cache import Cache
from geocache.data.views import ViewSet, cell_bounds, make_views
from geocache.pipeline.plan import Unit

__all__ = ["UnitViews"]


class UnitViews:
    """What the teacher sees of the rows of one unit, batch by batch."""

    def __init__(
        self, views: ViewSet, cache: Cache, unit: Unit, image_shape: tuple[int, int, int]
    ) -> None:
        """Draw for the unit's view; the samples' digests stand in the cache before any target."""
        self._views, self._cache, self._unit = views, cache, unit
        self._image_shape = image_shape
        self._low, self._high = self.needed(unit.start, unit.stop)

    @cached_property
    def _drawn(self) -> Shaped[np.ndarray, "rows columns"]:
        digests = self._cache.read("sample_id", self._low, self._high)
        return self._views.parameters(digests, self._unit.view, self._image_shape)

    def needed(self, start: int, stop: int) -> tuple[int, int]:
        """Return the rows whose images the views of rows [start, stop) are made of."""
        n_rows = self._cache.n_rows
        return cell_bounds(start, stop, n_rows) if self._views.mixing else (start, stop)

    def parameters(
        self, start: int, stop: int, bad: Collection[int]
    ) -> Shaped[np.ndarray, "rows columns"]:
        """Return the parameters of rows [start, stop).

        bad: rows without an image, of all that are needed; nothing is mixed with them.
        """
        if self._views.is_plain:
            return np.zeros((stop - start, 0))
        drawn = self._drawn[start - self._low : stop - self._low]
        mixing = self._views.mixing
        if mixing is None or not bad:
            return drawn
        partners = np.arange(start, stop) + mixing.offsets(drawn)
        return mixing.alone(drawn, np.isin(partners, list(bad)))

    def make(
        self,
        images: UInt8[np.ndarray, "needed height width 3"],
        parameters: Shaped[np.ndarray, "rows columns"],
        start: int,
    ) -> UInt8[np.ndarray, "rows height2 width2 3"]:
        """Return the views of rows [start, start + rows) from the images of the `needed` ones."""
        low, _ = self.needed(start, start + len(parameters))
        own = images[start - low : start - low + len(parameters)]
        if self._views.is_plain:
            return own
        mixing, partners = self._views.mixing, None
        if mixing is not None:
            at = np.arange(start - low, start - low + len(parameters)) + mixing.offsets(parameters)
            partners = images[at]
        return make_views(self._views.policy, own, parameters, partners)
