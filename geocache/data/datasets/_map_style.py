"""Any object with a length and (image, label) items, as PyTorch's map-style data sets are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from geocache.data.dataset import PROGRESS_ROWS, ImageDataset, array_digest
from geocache.data.images import decode
from geocache.errors import DataError

__all__ = ["MapDataset"]


class MapDataset(ImageDataset):
    """A map-style data set: Pillow images, uint8 arrays (H, W[, C]) or uint8 tensors ([C,] H, W).

    Labels and digests come from one pass over all items, made when either is first asked for. The
    object is read by one thread at a time, since nothing is known of it. A sample's digest covers
    its RGB pixels, so it does not depend on which of these types carries them.
    """

    parallel_reads: ClassVar[bool] = False

    def __init__(self, items: Any, *, name: str, split: str, classes: Sequence[str] | None = None):
        """Wrap `items`; raises DataError if there is none or the first is not the same twice."""
        self.items = items
        self.name = name
        self.split = split
        self._classes = classes if classes is not None else getattr(items, "classes", None)
        if len(items) == 0:
            raise DataError(f"data set {name}/{split} must hold at least one image, got none.")
        if not np.array_equal(self.read(0), self.read(0)):
            raise DataError(
                f"{self.where(0)} must be the same image each time it is read, got two different "
                "ones. Leave random transforms out of the data set; augment with views instead."
            )

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.items)

    def read(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        """Return image `index` as RGB."""
        return self._read_item(index)[0]

    @cached_property
    def labels(self) -> Int64[np.ndarray, " n"]:  # type: ignore[override]
        """Class number of each sample; None becomes -1."""
        return self._scan(None)[0]

    @cached_property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]
        """The wrapped object's class names, or the numbers up to the highest label."""
        if self._classes is not None:
            return tuple(str(name) for name in self._classes)
        return tuple(str(number) for number in range(int(self.labels.max()) + 1))

    def _compute_digests(self, progress: Callable[[int], None] | None) -> UInt8[np.ndarray, "n 32"]:
        return self._scan(progress)[1]

    def _scan(
        self, progress: Callable[[int], None] | None
    ) -> tuple[Int64[np.ndarray, " n"], UInt8[np.ndarray, "n 32"]]:
        """Read every item once, for the labels and the digests."""
        labels = np.empty(len(self), np.int64)
        digests = np.empty((len(self), 32), np.uint8)
        for index in range(len(self)):
            image, labels[index] = self._read_item(index)
            digests[index] = np.frombuffer(array_digest(image), np.uint8)
            if progress and (index + 1) % PROGRESS_ROWS == 0:
                progress(index + 1)
        n_classes = None if self._classes is None else len(self._classes)
        high = int(labels.max())
        if labels.min() < -1 or (n_classes is not None and high >= n_classes):
            raise DataError(
                f"labels must lie in -1 .. {high if n_classes is None else n_classes - 1}, "
                f"got {labels.min()} .. {high} ({self.name}/{self.split})."
            )
        self.__dict__["labels"], self._known_digests = labels, digests
        return labels, digests

    def _read_item(self, index: int) -> tuple[UInt8[np.ndarray, "height width 3"], int]:
        try:
            image, label = self.items[index]
            return _rgb(image), -1 if label is None else int(label)
        except MemoryError:
            raise
        except Exception as error:  # the user's code may raise anything
            raise DataError(
                f"{self.where(index)} must be (image, label), got {type(error).__name__}: {error}."
            ) from error


def _rgb(image: Any) -> UInt8[np.ndarray, "height width 3"]:
    """Return a Pillow image, an array or a tensor as RGB."""
    if isinstance(image, Image.Image):
        return decode(image)
    if not isinstance(image, np.ndarray):
        image = image.detach().cpu().numpy()
        if image.ndim == 3:
            image = image.transpose(1, 2, 0)
    if image.dtype != np.uint8:
        raise DataError(
            f"pixels must be uint8, got {image.dtype}; "
            "leave ToTensor and Normalize out of the data set"
        )
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    return decode(Image.fromarray(image))
