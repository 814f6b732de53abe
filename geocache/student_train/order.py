"""Which row comes when: pure functions of (seed, epoch, row), the same on every machine.

Rows are sorted by a keyed hash (the finaliser of SplitMix64) instead of shuffled by a generator:
no state to save, no library whose stream may change, and any part of an order can be computed by
itself. The same hash under another key holds out the validation rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["Rows", "batch_bounds", "epoch_order", "hold_out", "mix", "ranked"]

Rows = NDArray[np.int64]

_HOLD_OUT = 0x76616C6964617465  # "validate": a key that no epoch number reaches


def _finalise(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def mix(seed: int, key: int) -> int:
    """Return 63 well-mixed bits of (seed, key), for seeding a generator."""
    words = np.array([seed % 2**64, key % 2**64], dtype=np.uint64)
    first = _finalise(words[:1])
    return int(_finalise(first ^ words[1:])[0] >> np.uint64(1))


def ranked(rows: Rows, seed: int, key: int) -> Rows:
    """Return `rows` sorted by their hash under (seed, key). O(n log n)."""
    hashes = _finalise(rows.astype(np.uint64) ^ np.uint64(mix(seed, key)))
    return rows[np.argsort(hashes, kind="stable")]


def epoch_order(rows: Rows, *, seed: int, epoch: int) -> Rows:
    """Return `rows` in the order of one epoch: a permutation that depends on (seed, epoch) alone.

    The order of any two rows does not depend on which others are present. O(n log n).
    """
    return ranked(np.sort(rows), seed, epoch)


def hold_out(rows: Rows, *, fraction: float, seed: int, cell: int = 1) -> tuple[Rows, Rows]:
    """Split rows into (training, validation), each sorted; validation gets round(fraction n) rows.

    With `cell` it gets whole cells of so many consecutive row numbers, round(fraction cells) of
    them. A function of (rows, fraction, seed, cell); a larger fraction holds out the same rows and
    more.
    """
    cells = np.unique(rows // cell)
    order = ranked(cells, seed, _HOLD_OUT)
    held = np.isin(rows // cell, order[: round(fraction * len(cells))])
    return np.sort(rows[~held]), np.sort(rows[held])


def batch_bounds(n_rows: int, batch_size: int) -> Iterator[slice]:
    """Yield the slices of an epoch's batches; the last one may be short."""
    for start in range(0, n_rows, batch_size):
        yield slice(start, min(start + batch_size, n_rows))
