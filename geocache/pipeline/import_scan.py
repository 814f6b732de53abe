"""Read the whole of an imported array once: its hash, its finiteness, its agreement with labels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from geocache.errors import NumericError
from geocache.pipeline.import_order import Rows
from geocache.pipeline.import_request import ImportRequest
from geocache.pipeline.request import Progress

__all__ = ["Scan", "as_single", "can_agree", "scan"]

_READ_BYTES = 2**23


@dataclass(frozen=True)
class Scan:
    """What one reading of the whole array found."""

    sha256: str
    n_hits: int
    n_labelled: int

    @property
    def agreement(self) -> float | None:
        """Share of the labelled rows whose largest value is their label's."""
        return self.n_hits / self.n_labelled if self.n_labelled else None


def scan(
    request: ImportRequest, rows: Rows, positions: Int64[np.ndarray, " n"], tell: Progress
) -> Scan:
    """Hash type, shape and content in the order of the cache's rows, little-endian.

    Raises NumericError, naming the array's first row that is not finite in float32. O(array), in
    pieces of 8 MiB.
    """
    array = request.array
    little = array.dtype.newbyteorder("<")
    shape = ",".join(map(str, (rows.n, *array.shape[1:])))
    digest = hashlib.sha256(f"{little.str}({shape})".encode())
    row_bytes = array.dtype.itemsize * int(np.prod(array.shape[1:]))
    step = max(1, _READ_BYTES // row_bytes)
    is_measured = can_agree(request, rows)
    n_hits = n_labelled = 0
    for start in range(0, rows.n, step):
        stop = min(start + step, rows.n)
        taken = array[positions[start:stop]]
        digest.update(np.ascontiguousarray(taken, dtype=little).data)
        values = as_single(taken)
        if not np.isfinite(values).all():
            _refuse_first(request, step)
        if is_measured:
            labels = rows.labels[start:stop]
            n_hits += int(((values.argmax(axis=1) == labels) & (labels >= 0)).sum())
            n_labelled += int((labels >= 0).sum())
        tell("checking", stop, rows.n)
    return Scan(digest.hexdigest(), n_hits, n_labelled)


def as_single(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return values as float32 in memory of their own; too large ones become infinite."""
    with np.errstate(over="ignore"):
        return np.array(values, dtype=np.float32, order="C")


def _refuse_first(request: ImportRequest, step: int) -> None:
    """Name the array's first row that is not finite."""
    for start in range(0, len(request.array), step):
        values = as_single(request.array[start : start + step])
        finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if not finite.all():
            raise NumericError(
                f"array must be finite in float32, got NaN or infinity in row "
                f"{start + int(np.argmin(finite))} ({request.name}). Repair what made it."
            )


def can_agree(request: ImportRequest, rows: Rows) -> bool:
    """Return whether the array is logits of the classes that the rows are labelled with."""
    is_logits = request.layer is None and request.array.shape[1:] == (rows.n_classes,)
    return is_logits and rows.largest_share is not None
