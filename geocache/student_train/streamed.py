"""Rows straight from storage: windows of blocks filled by threads, one in use, one being read.

Each block is one contiguous read an array. Its rows are scattered to the places where the epoch's
order wants them, so that a batch is a slice of the window: the step gathers nothing.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geocache.data.views import MixPolicy, cell_bounds
from geocache.student_train.batch import Stored
from geocache.student_train.order import Rows
from geocache.student_train.source import Source
from geocache.student_train.windows import Share, Window, WindowOrder

__all__ = ["Streamed"]

_IMAGES, _PARAMETERS, _ROWS = "images", "view parameters", "row numbers"
_PAIRS, _PARTNERS = "images and those of partners", "images of partners"
Arrays = dict[str, NDArray[Any]]


@dataclass
class _Filling:
    """Our rows of a window in their order, the arrays that are being filled, and the reads."""

    rows: Rows
    arrays: Arrays = field(default_factory=dict)
    reads: list[Future[None]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def part(self, start: int, stop: int) -> Arrays:
        """Return rows [start, stop) of every array, and under a name of their own the rows."""
        arrays = {_ROWS: self.rows, **self.arrays}
        return {name: array[start:stop] for name, array in arrays.items()}


class Streamed:
    """Rows of a source, read when they are due; `held` maps targets to what serves them.

    Memory: the rows of two windows, and the row groups that `n_threads` decode at once. With 0
    threads a window is read when it is due, and nothing ahead. mixing: the views' policy where rows
    are mixed with partners, whose images then come along: they stand in the same block.
    """

    def __init__(
        self,
        source: Source,
        held: Mapping[str, str],
        *,
        block_rows: int,
        window_rows: int,
        n_threads: int,
        device: torch.device,
        mixing: MixPolicy | None = None,
    ) -> None:
        self._mixing = mixing
        self._source, self._held, self._device = source, dict(held), device
        self._block_rows, self._window_rows = block_rows, window_rows
        self._n_threads = n_threads
        self._labels = np.asarray(source.labels, np.int64)
        shape = source.read(_IMAGES, 0, 1).shape[1:]
        self.image_shape: tuple[int, int, int] = (shape[0], shape[1], shape[2])

    def gather(
        self, rows: Rows, view: int | None, names: Sequence[str], *, parameters: bool
    ) -> Stored:
        """Return these rows in a view, reading the blocks that hold them; slow, for a few rows."""
        filling = _Filling(rows)
        blocks = rows // self._block_rows
        for array in self._arrays(view, names, parameters=parameters):
            for block in np.unique(blocks):
                slots = np.flatnonzero(blocks == block)
                self._fill(filling, array, slots, view or 0)
        return self._moved(filling.part(0, len(rows)), names)

    def batches(
        self,
        rows: Rows,
        share: Share,
        numbers: range,
        *,
        seed: int,
        epoch: int | None,
        view: int | None,
        names: Sequence[str],
        parameters: bool,
    ) -> Generator[Stored, None, None]:
        """Yield our part of the batches `numbers` of an epoch; epoch None is the cache's order.

        Windows before the first batch are not read. An error of a reading thread is raised here;
        closing the iterator ends the threads.
        """
        arrays = self._arrays(view, names, parameters=parameters)
        order = WindowOrder(rows, self._block_rows, self._window_rows)
        parts = (share.part(number, len(rows)) for number in numbers)
        windows = self._windows(order, share, numbers, arrays, seed, epoch, view or 0)
        with closing(windows):
            batches = self._cut(windows, parts, names)
            # On a GPU the next batch is on its way while this one is worked on.
            yield from batches if self._device.type != "cuda" else _one_ahead(batches)

    def _windows(
        self,
        order: WindowOrder,
        share: Share,
        numbers: range,
        arrays: Sequence[str],
        seed: int,
        epoch: int | None,
        view: int,
    ) -> Generator[_Filling, None, None]:
        """Yield the windows that hold rows of ours, each full, the next one being filled."""
        wanted = (
            _Filling(rows)
            for window in order.windows(seed, epoch)
            if len(rows := _ours(order, window, share, numbers, seed, epoch))
        )
        with ThreadPoolExecutor(max(self._n_threads, 1), "geocache-read") as pool:
            ahead: _Filling | None = None
            try:
                while True:
                    filling = ahead or self._begun(next(wanted, None), arrays, view, pool)
                    if filling is None:
                        return
                    for read in filling.reads:
                        read.result()
                    if self._n_threads:
                        ahead = self._begun(next(wanted, None), arrays, view, pool)
                    yield filling
                    del filling
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _begun(
        self,
        filling: _Filling | None,
        arrays: Sequence[str],
        view: int,
        pool: ThreadPoolExecutor,
    ) -> _Filling | None:
        """Start reading a window, block by block; without threads of our own wait for each."""
        if filling is None:
            return None
        blocks = filling.rows // self._block_rows
        by_block = np.argsort(blocks, kind="stable")
        edges = np.flatnonzero(np.diff(blocks[by_block])) + 1
        for slots in np.split(by_block, edges):
            for array in arrays:
                if self._n_threads:
                    read = pool.submit(self._fill, filling, array, slots, view)
                    filling.reads.append(read)
                else:
                    self._fill(filling, array, slots, view)
        return filling

    def _fill(self, filling: _Filling, array: str, slots: NDArray[np.int64], view: int) -> None:
        """Read one block of an array, and put the rows of `slots` in their places."""
        slots = slots[np.argsort(filling.rows[slots])]
        for name, read, at in self._read(array, filling.rows[slots], view):
            with filling.lock:
                if name not in filling.arrays:
                    shape = (len(filling.rows), *read.shape[1:])
                    filling.arrays[name] = self._empty(shape, read.dtype)
            # Mostly all rows of a block are used: then they go to their places in one pass.
            filling.arrays[name][slots] = read if at is None else read[at]

    def _read(
        self, array: str, rows: Rows, view: int
    ) -> Iterator[tuple[str, NDArray[Any], Rows | None]]:
        """Yield what to keep of a block: a name, what was read, and which of it (None: all)."""
        start, stop = int(rows[0]), int(rows[-1]) + 1
        if array == _PAIRS and self._mixing is not None:
            low, high = cell_bounds(start, stop, self._source.n_rows)
            read = self._source.read(_IMAGES, low, high)
            drawn = self._source.view_parameters(view, stop, start)[rows - start]
            yield _IMAGES, read, rows - low
            yield _PARTNERS, read, rows + self._mixing.offsets(drawn) - low
            return
        if array == _PARAMETERS:
            read = self._source.view_parameters(view, stop, start)
        else:
            read = self._source.read(self._held.get(array, array), start, stop, view)
        yield array, read, None if len(rows) == len(read) else rows - start

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        if self._device.type != "cuda":
            return np.empty(shape, dtype)
        # Pinned: the copy to the GPU then runs beside the step.
        n_bytes = int(np.prod(shape)) * dtype.itemsize
        pinned: NDArray[Any] = torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True).numpy()
        return pinned.view(dtype).reshape(shape)

    def _cut(
        self, windows: Iterator[_Filling], parts: Iterator[slice], names: Sequence[str]
    ) -> Iterator[Stored]:
        """Cut the windows' rows into batches; one that lies across an edge is put together."""
        window, cursor = _Filling(np.empty(0, np.int64)), 0
        for part in parts:
            missing = part.stop - part.start
            pieces: list[Arrays] = []
            while missing:
                if cursor == len(window.rows):
                    # Nothing may hold the old window while a new one is begun.
                    pieces = [{name: a.copy() for name, a in p.items()} for p in pieces]
                    del window
                    window, cursor = next(windows), 0
                stop = min(cursor + missing, len(window.rows))
                pieces.append(window.part(cursor, stop))
                missing, cursor = missing - (stop - cursor), stop
            if len(pieces) > 1:
                pieces = [{n: np.concatenate([p[n] for p in pieces]) for n in pieces[0]}]
            yield self._moved(pieces[0], names)

    def _arrays(
        self, view: int | None, names: Sequence[str], *, parameters: bool
    ) -> tuple[str, ...]:
        drawn = parameters and view is not None
        images = _PAIRS if drawn and self._mixing is not None else _IMAGES
        return (images, *names, *([_PARAMETERS] if drawn else []))

    def _moved(self, arrays: Arrays, names: Sequence[str]) -> Stored:
        """Return rows of a window as tensors, begun to be copied to the device.

        On a CPU images stay in the window, channels last: normalising is their only copy.
        """

        def tensor(array: NDArray[Any]) -> Tensor:
            if self._device.type == "cuda":
                return torch.from_numpy(array).to(self._device, non_blocking=True)
            # A copy: a batch that somebody keeps must not keep its whole window.
            return torch.from_numpy(array.copy())

        def plain(name: str, rows: Rows) -> Stored:
            images = torch.from_numpy(arrays[name]).to(self._device, non_blocking=True)
            return Stored(images.permute(0, 3, 1, 2), tensor(self._labels[rows]), tensor(rows))

        partners = None
        if _PARTNERS in arrays and self._mixing is not None:
            rows = arrays[_ROWS] + self._mixing.offsets(arrays[_PARAMETERS])
            partners = plain(_PARTNERS, rows)
        return dataclasses.replace(
            plain(_IMAGES, arrays[_ROWS]),
            parameters=tensor(arrays[_PARAMETERS]) if _PARAMETERS in arrays else None,
            targets={name: tensor(arrays[name]) for name in names},
            partners=partners,
        )


def _one_ahead(batches: Iterator[Stored]) -> Iterator[Stored]:
    last: Stored | None = None
    for batch in batches:
        if last is not None:
            yield last
        last = batch
    if last is not None:
        yield last


def _ours(
    order: WindowOrder,
    window: Window,
    share: Share,
    numbers: range,
    seed: int,
    epoch: int | None,
) -> Rows:
    """Return the rows of a window that belong to our part of the batches `numbers`, in order."""
    position = np.arange(window.start, window.stop)
    ours = share.holds(position, len(order.rows), numbers)
    return order.rows_in(window, seed, epoch)[ours] if ours.any() else position[:0]
