"""Collect batches of rows into row groups, and commit each group when it is complete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from geocache.data.layout import ArrayLayout, Group
from geocache.data.writer import CacheWriter
from geocache.pipeline.plan import Missing

__all__ = ["GroupBuffers"]


class GroupBuffers:
    """The row groups that are being filled; rows come in rising order."""

    def __init__(
        self, writer: CacheWriter, layouts: Mapping[str, ArrayLayout], missing: Sequence[Missing]
    ) -> None:
        """Fill the groups of `missing`, whose arrays have these layouts by path."""
        self._writer, self._layouts, self._missing = writer, layouts, missing
        self._rows: dict[tuple[str, Group], np.ndarray[Any, Any]] = {}
        self.n_bytes = 0
        """Bytes committed so far."""

    def add(
        self,
        computed: Mapping[str, np.ndarray[Any, Any]],
        start: int,
        stop: int,
        notes: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """Copy rows [start, stop) into the groups they touch; commit those that they complete.

        computed: rows by path; other paths wait. notes: what goes into the receipts, by path.
        Raises StorageError when the disk refuses.
        """
        for missing in self._missing:
            path, group = missing.path, missing.group
            low, high = max(start, group.start), min(stop, group.stop)
            if path not in computed or low >= high:
                continue
            layout = self._layouts[path]
            if (path, group) not in self._rows:
                shape = (group.stop - group.start, *layout.row_shape)
                self._rows[path, group] = np.zeros(shape, layout.dtype)
            rows = self._rows[path, group]
            rows[low - group.start : high - group.start] = computed[path][
                low - start : high - start
            ]
            if high == group.stop:
                del self._rows[path, group]
                self.n_bytes += self._writer.commit(layout, group, rows, notes.get(path))
