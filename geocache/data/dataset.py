"""What a data set is to geocache: numbered RGB images, labels and a digest of each sample.

The digest never covers the label, the path or the position, so the same images elsewhere, renamed
or in another order are the same data. Worker processes are spawned, so a data set travels by how it
was opened (`Source`) or by its file names, never by its pixels.
"""

from __future__ import annotations

import copyreg
import functools
import hashlib
import pickle
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int64, Shaped, UInt8

from geocache.errors import DataError

__all__ = ["ArrayDataset", "ImageDataset", "Source", "array_digest"]

PROGRESS_ROWS = 1024


@dataclass(frozen=True)
class Source:
    """How a data set was opened: enough to open it again in another process."""

    spec: str
    root: str | None
    split: str
    options: Mapping[str, Any] = field(default_factory=dict)


class ImageDataset(ABC):
    """Numbered RGB images of one split.

    A subclass sets `name`, `split`, `classes` and `labels` and defines `read`.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    labels: Int64[np.ndarray, " n"]
    """Class number of each sample, -1 where there is no label."""

    source: Source | None = None
    parallel_reads: ClassVar[bool] = True
    """Whether several threads may call `read` at once."""
    travels_by_source: ClassVar[bool] = True
    """Whether a copy in another process is opened again there; if not, its attributes travel."""

    _known_digests: UInt8[np.ndarray, "n 32"] | None = None

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.labels)

    @abstractmethod
    def read(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        """Return image `index` as RGB; raises DataError, naming the sample, if it is unreadable."""

    def where(self, index: int) -> str:
        """Return where a person finds sample `index`."""
        return f"{self.name}/{self.split}[{index}]"

    def digests(self, progress: Callable[[int], None] | None = None) -> UInt8[np.ndarray, "n 32"]:
        """Return the SHA-256 of each sample's content; computed once for each object.

        `progress` is called now and then with the number of samples that are done.
        """
        if self._known_digests is None:
            self._known_digests = self._compute_digests(progress)
        return self._known_digests

    def _compute_digests(self, progress: Callable[[int], None] | None) -> UInt8[np.ndarray, "n 32"]:
        digests = np.empty((len(self), 32), np.uint8)
        for index in range(len(self)):
            digests[index] = np.frombuffer(array_digest(self._content(index)), np.uint8)
            if progress and (index + 1) % PROGRESS_ROWS == 0:
                progress(index + 1)
        return digests

    def _content(self, index: int) -> UInt8[np.ndarray, "height width channels"]:
        """Return the array whose digest stands for sample `index`."""
        return self.read(index)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle how to open the data set again, or its attributes without the digests."""
        if self.source is not None and self.travels_by_source:
            return _reopen, (pickle.dumps(self.source),)
        state = {key: value for key, value in self.__dict__.items() if key != "_known_digests"}
        return copyreg.__newobj__, (type(self),), state  # type: ignore[attr-defined]


class ArrayDataset(ImageDataset):
    """A data set whose images lie in one array in memory: grey or RGB, all of one size.

    The digest of a sample covers the array as it is (one channel for grey), not its RGB form.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        classes: Sequence[str],
        *,
        name: str,
        split: str,
    ) -> None:
        """Keep `images`, uint8 (n, height, width, 1 or 3), and `labels`, integers (n,), -1: none.

        Raises DataError if types, shapes or labels do not fit.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise DataError(
                f"images must be uint8 of shape (n, height, width, 1 or 3), "
                f"got {images.dtype} {images.shape} ({name}/{split})."
            )
        if len(images) == 0 or labels.shape != (len(images),) or labels.dtype.kind not in "iu":
            raise DataError(
                f"images must be at least one and have a whole number each as label, got "
                f"{len(images)} images and {labels.dtype} {labels.shape} labels ({name}/{split})."
            )
        self.images = images
        self.labels = labels.astype(np.int64)
        self.classes = tuple(classes)
        self.name = name
        self.split = split
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < -1 or high >= len(self.classes):
            raise DataError(
                f"labels must lie in -1 .. {len(self.classes) - 1}, "
                f"got {low} .. {high} ({name}/{split})."
            )

    def read(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        """Return image `index` as a fresh RGB array; grey is repeated."""
        height, width, _ = self.images[index].shape
        return np.array(np.broadcast_to(self.images[index], (height, width, 3)))

    def _content(self, index: int) -> UInt8[np.ndarray, "height width channels"]:
        content: np.ndarray = self.images[index]
        return content


def array_digest(array: Shaped[np.ndarray, "*shape"]) -> bytes:
    """Return the SHA-256 of an array's type, shape and values in C order, little-endian."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    shape = ",".join(str(length) for length in array.shape)
    digest = hashlib.sha256(f"{little.dtype.str}({shape})".encode())
    digest.update(little.data)
    return digest.digest()


_reopen_lock = threading.Lock()


def _reopen(source: bytes) -> ImageDataset:
    """Open a data set that was pickled; all tasks of a process share one copy of it."""
    with _reopen_lock:
        return _opened(source)


@functools.lru_cache(maxsize=2)
def _opened(pickled: bytes) -> ImageDataset:
    from geocache.data.datasets import open_dataset

    source: Source = pickle.loads(pickled)
    return open_dataset(source.spec, root=source.root, split=source.split, options=source.options)
