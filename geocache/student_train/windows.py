"""The order of streaming: which blocks are read together, and which row comes when.

Blocks of consecutive rows are permuted, cut into windows of at most so many rows, and the rows of
a window are shuffled among themselves. All of it is a function of (rows, sizes, seed, epoch), by
the same keyed hash as the exact shuffle: any window can be computed, and so any batch be reached,
without those before it. The first window is a single block and the next ones double, so that the
first batch of an epoch waits for one block and not for a whole window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geocache.student_train.order import Rows, ranked

__all__ = ["Share", "Window", "WindowOrder"]

_BLOCKS = 0x626C6F636B73  # "blocks": epochs hash blocks and rows under different keys


@dataclass(frozen=True)
class Share:
    """Which part of every batch is ours, of all ranks, and which batches, of all workers.

    Rank r of R takes rows [r n / R, (r + 1) n / R) of each batch of n, so that the ranks together
    see the batches of one process; worker w of W takes the batches w, w + W, ...
    """

    batch_size: int
    rank: int = 0
    world_size: int = 1
    worker: int = 0
    n_workers: int = 1

    def sizes(self, n_rows: int, *, per_rank: int = 1) -> list[int]:
        """Return the rows of each batch of an epoch, over all ranks.

        A short last one that cannot give each rank `per_rank` rows is left out, unless it is all.
        """
        whole, rest = divmod(n_rows, self.batch_size)
        kept = rest > 0 and (whole == 0 or rest >= per_rank * self.world_size)
        return [self.batch_size] * whole + [rest] * kept

    def numbers(self, n_batches: int, start: int = 0) -> range:
        """Return the numbers of this worker's batches from `start` on."""
        first = start + (self.worker - start) % self.n_workers
        return range(first, n_batches, self.n_workers)

    def part(self, batch: int, n_rows: int) -> slice:
        """Return the positions of our part of a batch in an epoch of `n_rows`."""
        start = batch * self.batch_size
        size = min(self.batch_size, n_rows - start)
        low, high = (r * size // self.world_size for r in (self.rank, self.rank + 1))
        return slice(start + low, start + high)

    def holds(self, positions: NDArray[np.int64], n_rows: int, numbers: range) -> NDArray[np.bool_]:
        """Return which positions of an epoch lie in our part of the batches `numbers`."""
        batch, at = np.divmod(positions, self.batch_size)
        size = np.minimum(self.batch_size, n_rows - batch * self.batch_size)
        low, high = (r * size // self.world_size for r in (self.rank, self.rank + 1))
        wanted = (batch >= numbers.start) & (batch < numbers.stop)
        wanted &= (batch - numbers.start) % numbers.step == 0
        ours: NDArray[np.bool_] = wanted & (low <= at) & (at < high)
        return ours


@dataclass(frozen=True)
class Window:
    """Positions [start, stop) of an epoch, and the blocks whose rows stand there."""

    start: int
    stop: int
    blocks: NDArray[np.int64]


class WindowOrder:
    """The order of `rows` (sorted) when blocks of `block_rows` are read, `window_rows` at a time.

    A window holds at least one block. Memory and time O(rows / block_rows) besides the rows.
    """

    def __init__(self, rows: Rows, block_rows: int, window_rows: int) -> None:
        self.rows, self.block_rows = rows, block_rows
        self.window_rows = max(window_rows, block_rows)
        n_blocks = int(rows[-1]) // block_rows + 1 if len(rows) else 0
        self._edges = np.searchsorted(rows, np.arange(n_blocks + 1) * block_rows)

    def rows_of(self, block: int) -> Rows:
        """Return the rows that are used of a block, sorted."""
        return self.rows[self._edges[block] : self._edges[block + 1]]

    def windows(self, seed: int, epoch: int | None) -> Iterator[Window]:
        """Yield the windows of an epoch; None stands for the cache's own order."""
        sizes = np.diff(self._edges)
        blocks = np.flatnonzero(sizes).astype(np.int64)
        if epoch is not None:
            blocks = ranked(blocks, seed, epoch ^ _BLOCKS)
        start, first, limit = 0, 0, self.block_rows
        while first < len(blocks):
            last, size = first, 0
            while last < len(blocks) and (last == first or size + sizes[blocks[last]] <= limit):
                size += int(sizes[blocks[last]])
                last += 1
            yield Window(start, start + size, blocks[first:last])
            start, first, limit = start + size, last, min(2 * limit, self.window_rows)

    def rows_in(self, window: Window, seed: int, epoch: int | None) -> Rows:
        """Return the rows of a window in the order of the epoch."""
        rows = np.concatenate([self.rows_of(int(block)) for block in window.blocks])
        return np.sort(rows) if epoch is None else ranked(np.sort(rows), seed, epoch)
