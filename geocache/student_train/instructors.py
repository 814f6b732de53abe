"""Several teachers as one source: their caches side by side, row by row.

Rows stand in an order that depends on the data alone, so the caches of all teachers over one data
set line up by construction; whether they are caches of that same data and views is checked. Targets
carry their teacher's name in front: `big/logits`, `big/layer2/mst`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geocache.data.views import ViewSet
from geocache.errors import CacheError, ConfigError
from geocache.student_train.source import Decoder, Source

__all__ = ["Instructors", "as_source"]


class Instructors:
    """A `Source` over the caches of several teachers, by name.

    Pixels, labels, normalisation and the evaluation split are those of the first; a row is valid
    where all say so. Raises CacheError, naming the two teachers and what differs, unless all caches
    are of the same samples and views with the same labels.
    """

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._sources = dict(sources)
        self._first_name, self._first = next(iter(self._sources.items()))
        for name, source in list(self._sources.items())[1:]:
            self._check_aligned(name, source)

    def _check_aligned(self, name: str, source: Source) -> None:
        first = self._first
        pair = f"teachers '{self._first_name}' and '{name}'"
        caches = f"caches {first.key[:12]} and {source.key[:12]}"
        if source.rows_key != first.rows_key or source.n_rows != first.n_rows:
            raise CacheError(
                f"{pair} must be cached over the same images and views, got {first.n_rows} and "
                f"{source.n_rows} rows of different ones ({caches}). Build both from one [data]."
            )
        if not np.array_equal(source.labels, first.labels):
            row = int(np.flatnonzero(source.labels != first.labels)[0])
            raise CacheError(
                f"{pair} must be cached with the same labels, got {first.labels[row]} and "
                f"{source.labels[row]} at row {row} ({caches}). Run `geocache build` for both: it "
                "brings corrected labels to each."
            )

    @property
    def key(self) -> str:
        """Return all caches' keys, joined."""
        return "+".join(source.key for source in self._sources.values())

    @property
    def rows_key(self) -> str:
        """Return what all of them are caches of."""
        return self._first.rows_key

    @property
    def n_rows(self) -> int:
        """Return the number of rows, the same in each."""
        return self._first.n_rows

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the classes' names."""
        return self._first.classes

    @property
    def labels(self) -> NDArray[np.int64]:
        """Return the labels, the same in each."""
        return self._first.labels

    @property
    def sample_id(self) -> NDArray[np.uint8] | None:
        """Return the digests of the rows' contents, the same in each."""
        return getattr(self._first, "sample_id", None)

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Return the rows that every teacher could read."""
        valid: NDArray[np.bool_] = np.all([s.valid for s in self._sources.values()], axis=0)
        return valid

    @property
    def mean(self) -> tuple[float, ...]:
        """Return the first teacher's mean, which the student's pixels are normalised with."""
        return self._first.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Return the first teacher's standard deviation."""
        return self._first.std

    @property
    def eval_images(self) -> NDArray[np.uint8] | None:
        """Return the first cache's evaluation images."""
        return self._first.eval_images

    @property
    def eval_labels(self) -> NDArray[np.int64] | None:
        """Return the first cache's evaluation labels."""
        return self._first.eval_labels

    def target_names(self) -> tuple[str, ...]:
        """Return every target of every teacher, `TEACHER/TARGET`."""
        return tuple(
            f"{name}/{target}"
            for name, source in self._sources.items()
            for target in source.target_names()
        )

    @property
    def views(self) -> ViewSet:
        """Return the views, the same in each."""
        return self._first.views

    @property
    def view_identity(self) -> Mapping[str, Any]:
        """Return the policy and parameters of the views, the same in each."""
        return self._first.view_identity

    def view_parameters(self, view: int, stop: int, start: int = 0) -> NDArray[Any]:
        """Return the parameters of one view of rows [start, stop), the same in each."""
        return self._first.view_parameters(view, stop, start)

    def row_bytes(self, name: str) -> int:
        """Return the bytes of a row of a target, or of the first cache's `images`."""
        source, target = self._find(name)
        return source.row_bytes(target)

    def group_rows(self, name: str) -> int:
        """Return the rows of a row group of a target, or of the first cache's `images`."""
        source, target = self._find(name)
        return source.group_rows(target)

    def n_built(self, name: str, n_views: int | None = None) -> int:
        """Return the rows of a target, or of the first cache's `images`."""
        source, target = self._find(name)
        return source.n_built(target, n_views)

    def read(self, name: str, start: int, stop: int, view: int = 0) -> NDArray[Any]:
        """Return rows of a target, or of the first cache's `images`."""
        source, target = self._find(name)
        return source.read(target, start, stop, view)

    def decoder(self, name: str) -> Decoder:
        """Return what decodes a target."""
        source, target = self._find(name)
        return source.decoder(target)

    def _find(self, name: str) -> tuple[Source, str]:
        teacher, slash, target = name.partition("/")
        return (self._sources[teacher], target) if slash else (self._first, name)


def as_source(sources: Source | Mapping[str, Source], names: tuple[str, ...]) -> Source:
    """Return the source of the teachers `names`; with one teacher, its own.

    Raises ConfigError for a teacher without a cache.
    """
    if not isinstance(sources, Mapping):
        if len(names) > 1:
            raise ConfigError(
                f"train must have a cache for each teacher ({', '.join(names)}), got one. Give a "
                "mapping from the teachers' names to their caches."
            )
        return sources
    missing = [name for name in names if name not in sources]
    if missing:
        raise ConfigError(
            f"train must have a cache for each teacher, got none for {', '.join(missing)}. Build "
            "it, and pass it under that name."
        )
    if len(names) > 1:
        return Instructors({name: sources[name] for name in names})
    return sources[names[0]] if names else next(iter(sources.values()))
