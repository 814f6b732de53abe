"""A cache's own images as a data set: what a teacher needs to run again where no data set is."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from geocache.data.cache import Cache
from geocache.data.dataset import ImageDataset
from geocache.errors import DataError

__all__ = ["CachedImages"]


class CachedImages(ImageDataset):
    """The rows of a cache, in its order; digests are the samples' own."""

    def __init__(self, cache: Cache) -> None:
        """Read labels and digests; the images are read as they are asked for."""
        self.cache = cache
        self.name, self.split = f"cache {cache.key[:12]}", "rows"
        self.classes = cache.classes
        self.labels = cache.labels
        self._known_digests = cache.sample_id

    def read(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        """Return the image of row `index`; raises DataError where it could not be read."""
        if not bool(self.cache.read("valid", index, index + 1)[0]):
            why = self.cache.left_out(self.cache.layouts["valid"])
            raise DataError(why.get(index, f"{self.where(index)} must be a readable image."))
        image: UInt8[np.ndarray, "height width 3"] = self.cache.read("images", index, index + 1)[0]
        return image
