"""What training reads: the read side of a cache as a protocol, and the same from plain arrays.

The trainer asks for no more of a cache than `Source`. `ArraySource` lets a student train with
cross-entropy alone where there is no cache yet: a teacher that is still to be trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from geocache.data.dataset import ImageDataset
from geocache.data.datasets import open_dataset
from geocache.data.identity import row_order
from geocache.data.images import ImageSpec, read_rows
from geocache.data.layout import UNIT_ROWS
from geocache.data.views import ViewSet, cell_bounds
from geocache.errors import DataError, MissingTargetError
from geocache.student_train.recipe import IMAGENET_MEAN, IMAGENET_STD, Recipe

__all__ = ["ArraySource", "Decoder", "Source", "dataset_source", "eval_arrays", "read_images"]


@runtime_checkable
class Decoder(Protocol):
    """Turns a batch of stored values into what a loss works with, on any device."""

    def decode(self, stored: Tensor, /) -> Tensor:
        """Return the decoded batch."""


@runtime_checkable
class Source(Protocol):
    """The read side of a cache, as far as training uses it."""

    @property
    def key(self) -> str: ...
    @property
    def rows_key(self) -> str: ...
    @property
    def n_rows(self) -> int: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def labels(self) -> NDArray[np.int64]: ...
    @property
    def valid(self) -> NDArray[np.bool_]: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...
    @property
    def eval_images(self) -> NDArray[np.uint8] | None: ...
    @property
    def eval_labels(self) -> NDArray[np.int64] | None: ...
    @property
    def views(self) -> ViewSet: ...
    @property
    def view_identity(self) -> Mapping[str, Any]: ...
    def target_names(self) -> tuple[str, ...]: ...
    def n_built(self, name: str, n_views: int | None = None, /) -> int: ...
    def row_bytes(self, name: str, /) -> int: ...
    def group_rows(self, name: str, /) -> int: ...
    def view_parameters(self, view: int, stop: int, start: int = 0, /) -> NDArray[Any]: ...
    def read(self, name: str, start: int, stop: int, view: int = 0) -> NDArray[Any]: ...
    def decoder(self, name: str, /) -> Decoder: ...


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Images and labels in memory, read as if they were a cache without targets.

    Arguments: `images` uint8 (n, H, W, 3); `labels` int64 (n,), -1 unlabelled; `classes` names;
    `mean` and `std` of the normalisation, on pixels from 0 to 1; the evaluation split's images and
    labels; `valid` (n,), by default all rows.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    views: ViewSet = field(default_factory=ViewSet)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    eval_images: NDArray[np.uint8] | None = None
    eval_labels: NDArray[np.int64] | None = None
    valid: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    key: str = "arrays"
    sample_id: NDArray[np.uint8] | None = None
    dataset_index: NDArray[np.int64] | None = None
    """Position of each row in the data set, by default its number."""

    def __post_init__(self) -> None:
        if len(self.valid) == 0:
            object.__setattr__(self, "valid", np.ones(len(self.images), dtype=np.bool_))

    @property
    def rows_key(self) -> str:
        """Return what the rows are: these arrays."""
        return self.key

    @property
    def n_rows(self) -> int:
        """Return the number of rows."""
        return len(self.images)

    def target_names(self) -> tuple[str, ...]:
        """Return no names: there is no teacher."""
        return ()

    @property
    def view_identity(self) -> Mapping[str, Any]:
        """Return the policy and parameters of the views."""
        return asdict(self.views.identity())

    def view_parameters(self, view: int, stop: int, start: int = 0) -> NDArray[Any]:
        """Draw the parameters of any view: without a teacher nothing limits their number."""
        low, high = start, min(stop, self.n_rows)
        if self.views.mixing is not None:
            low, high = cell_bounds(start, high, self.n_rows)
        drawn = self.views.parameters(self._digests[low:high], view, self.images.shape[1:])
        return self._with_readable(drawn, low)[start - low : stop - low]

    def _with_readable(self, drawn: NDArray[Any], low: int) -> NDArray[Any]:
        """Mix nothing with images that could not be read."""
        mixing = self.views.mixing
        if mixing is None or bool(self.valid.all()):
            return drawn
        partners = low + np.arange(len(drawn)) + mixing.offsets(drawn)
        return mixing.alone(drawn, ~self.valid[partners])

    @cached_property
    def _digests(self) -> NDArray[np.uint8]:
        """Return the SHA-256 of each image's pixels."""
        hashed = (hashlib.sha256(image.tobytes()).digest() for image in self.images)
        return np.frombuffer(b"".join(hashed), np.uint8).reshape(-1, 32)

    def n_built(self, name: str, n_views: int | None = None) -> int:
        """Return the rows of `images`; nothing else is there."""
        return self.n_rows if name == "images" else 0

    def row_bytes(self, name: str) -> int:
        """Return the bytes of an image."""
        return self.images[:1].nbytes

    def group_rows(self, name: str) -> int:
        """Return the rows that are read together: any number does."""
        return UNIT_ROWS

    def read(self, name: str, start: int, stop: int, view: int = 0) -> NDArray[Any]:
        """Return rows of `images`. Raises MissingTargetError for anything else."""
        if name != "images":
            raise MissingTargetError(f"target '{name}' must be in a cache, got plain images.")
        return self.images[start:stop]

    def decoder(self, name: str) -> Decoder:
        """Raise MissingTargetError: there is nothing to decode."""
        raise MissingTargetError(f"target '{name}' must be in a cache, got plain images.")


def read_images(
    dataset: ImageDataset, spec: ImageSpec, threads: int
) -> tuple[NDArray[np.uint8], dict[int, str]]:
    """Decode a whole data set: uint8 (n, H, W, 3), and why any position could not be read."""
    return read_rows(dataset, np.arange(len(dataset)), spec, threads)


def _open(recipe: Recipe, split: str) -> ImageDataset:
    data = recipe.data
    root = None if data.root is None else Path(data.root)
    return open_dataset(data.dataset, root=root, split=split, options=data.options)


def eval_arrays(
    recipe: Recipe, *, threads: int = 2
) -> tuple[NDArray[np.uint8], NDArray[np.int64]] | None:
    """Read the recipe's evaluation split: (images, labels), or None where it names none.

    Raises DataError when an image of it cannot be read.
    """
    if recipe.data.eval_split is None:
        return None
    dataset = _open(recipe, recipe.data.eval_split)
    images, bad = read_images(dataset, ImageSpec(size=recipe.data.image_size()), threads)
    if bad:
        position, reason = next(iter(bad.items()))
        raise DataError(
            f"evaluation images must be readable, got {len(bad)} that are not, the first "
            f"{dataset.where(position)}: {reason}. Remove or replace it."
        )
    return images, dataset.labels


def dataset_source(recipe: Recipe, *, threads: int = 2) -> ArraySource:
    """Read the recipe's data set itself, for training without a teacher.

    Rows stand in the data set's own order; for views that mix rows with others beside them in that
    of a cache, since data sets come sorted by class. Unreadable images are rows that are not valid.
    Raises DataError as `open_dataset` and `read_rows` do.
    """
    dataset = _open(recipe, recipe.data.split)
    images, bad = read_images(dataset, ImageSpec(size=recipe.data.image_size()), threads)
    valid = np.ones(len(images), dtype=np.bool_)
    valid[list(bad)] = False
    views, order = recipe.data.views.build(), np.arange(len(images))
    if views.mixing is not None:
        views.mixing.check(images.shape[1:])
        order = row_order(dataset.digests(), dataset.labels)
    evaluation = eval_arrays(recipe, threads=threads)
    mean, std = recipe.normalisation()
    return ArraySource(
        images=images if views.mixing is None else images[order],
        labels=dataset.labels[order],
        classes=dataset.classes,
        views=views,
        mean=mean,
        std=std,
        eval_images=None if evaluation is None else evaluation[0],
        eval_labels=None if evaluation is None else evaluation[1],
        valid=valid[order],
        key=f"dataset:{recipe.data.dataset}",
        sample_id=None if recipe.data.fraction is None else dataset.digests(),
        dataset_index=order,
    )
