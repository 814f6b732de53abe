"""What an import is asked for, and what it reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from geocache.data.dataset import ImageDataset
from geocache.data.images import ImageSpec
from geocache.data.objects import Address
from geocache.errors import ConfigError, DataError
from geocache.pipeline.request import check_normalisation
from geocache.targets import LayerTarget

__all__ = ["Checked", "ImportReport", "ImportRequest"]

Checked = Literal["ids", "labels", "agreement", "no"]
"""What has shown that the rows stand in the order that was said."""


@dataclass(frozen=True, eq=False)
class ImportRequest:
    """Which array becomes which targets of which cache, and in which order its rows stand.

    array: float16, float32 or float64, (n, K) outputs or (n, C, *grid) maps of one layer; computed
    with in float32. targets: of one layer, or of the output. Either `cache` (a key or a path), or
    `dataset` for a cache of the array itself: its teacher is `imported:TEACHER`, by default the
    stem of `name`, with `mean` and `std` as its normalisation.

    order: row i belongs to sample i of the data set, or to row i of the cache. ids: uint8 (n, 32),
    the SHA-256 of each row's sample, which decide instead. labels: whole numbers (n,) in the
    array's order, held against the cache's. unchecked: take the order for granted.
    """

    array: np.ndarray[Any, Any]
    targets: tuple[LayerTarget, ...]
    name: str = "array"
    """What messages and receipts call the array: a file's name."""
    cache: str | Path | None = None
    dataset: ImageDataset | None = None
    teacher: str | None = None
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    image: ImageSpec = field(default_factory=ImageSpec)
    evaluation: ImageDataset | None = None
    store: str | Path | None = None
    images: bool | None = None
    skip_bad: bool = False
    order: Literal["dataset", "rows"] = "dataset"
    labels: np.ndarray[Any, Any] | None = None
    ids: np.ndarray[Any, Any] | None = None
    unchecked: bool = False

    def __post_init__(self) -> None:
        """Refuse two caches or none, targets of several layers, and arrays that cannot be read."""
        if (self.cache is None) == (self.dataset is None):
            raise ConfigError(
                f"an import must name a cache or a data set, got {'both' if self.cache else 'none'}"
                f" ({self.name}). Give --cache, or --dataset for a cache of its own."
            )
        layers = {target.layer for target in self.targets}
        if len(layers) != 1:
            named = ", ".join(sorted(target.name for target in self.targets)) or "none"
            raise ConfigError(
                f"targets of one import must be measured on one layer, or on the output, got "
                f"{named} ({self.name}). Import each layer's array by itself."
            )
        if self.order not in ("dataset", "rows"):
            raise ConfigError(f"order must be 'dataset' or 'rows', got '{self.order}'.")
        check_normalisation(self.mean, self.std)
        given = self.array
        if given.dtype.kind != "f" or given.dtype.itemsize not in (2, 4, 8):
            raise DataError(
                f"array must be float16, float32 or float64, got {_plain(given.dtype)} "
                f"({self.name}). Convert it with astype."
            )
        if given.ndim < 2 or 0 in given.shape[1:]:
            raise DataError(
                f"array must have a row a sample, (n, K) or (n, C, *grid), got shape {given.shape} "
                f"({self.name}). Save what was tapped, unflattened."
            )

    @property
    def layer(self) -> str | None:
        """The layer that the array was tapped at, None for the model's output."""
        return self.targets[0].layer


def _plain(dtype: np.dtype[Any]) -> str:
    return "Python objects" if dtype.hasobject else str(dtype)


@dataclass(frozen=True)
class ImportReport:
    """What an import found and did."""

    key: str
    path: Address
    n_rows: int
    targets: tuple[str, ...]
    """All that were asked for."""
    imported: tuple[str, ...]
    """Those of which something was missing; the others were whole and are left as they were."""
    sha256: str
    """Of the array's type, shape and content in the order of the cache's rows."""
    order: str
    checked: Checked
    agreement: float | None = None
    """Share of the labelled rows whose largest logit is their label's; None where not measured."""
    n_bytes_written: int = 0
    elapsed_s: float = 0.0
    bad: Mapping[int, str] = field(default_factory=dict)
    """Rows without an image, which hold zeros, with the reason."""
