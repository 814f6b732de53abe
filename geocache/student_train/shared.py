"""One copy of an array for all processes of a machine: written by one, mapped by each.

The memory has no name in any folder (Linux's `memfd_create`), so nothing is left of it however the
processes end: the others reach it through the writer's open file, and it is gone with the last
that maps it. It also counts as memory of theirs, not as files of a small `/dev/shm`. Where there is
no such memory, or the writer's files cannot be seen, each process holds a copy of its own.
"""

from __future__ import annotations

import logging
import math
import mmap
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from geocache.errors import CacheError

__all__ = ["Peers", "can_share", "shared_array"]

_log = logging.getLogger(__name__)


class Peers(Protocol):
    """Processes of one machine that do the same things in the same order; one of them writes."""

    @property
    def writes(self) -> bool:
        """Whether this is the one that writes."""

    def tell(self, value: Any) -> Any:
        """Return the writer's value on each."""

    def least(self, value: int) -> int:
        """Return the smallest of all their values on each."""

    def barrier(self) -> None:
        """Wait for all."""


@dataclass(frozen=True)
class _Address:
    """Where the writer has opened an array: the file by process and number, and by identity."""

    process: int
    descriptor: int
    device: int
    inode: int
    shape: tuple[int, ...]
    dtype: str

    def mapped(self) -> NDArray[Any]:
        """Map it. Raises OSError where it cannot be reached."""
        file = os.open(f"/proc/{self.process}/fd/{self.descriptor}", os.O_RDWR)
        try:
            found = os.fstat(file)
            # In a container of its own the same number may be another process.
            if (found.st_dev, found.st_ino) != (self.device, self.inode):
                raise FileNotFoundError(f"process {self.process} is another one here")
            return _map(file, self.shape, np.dtype(self.dtype))
        finally:
            os.close(file)


def can_share() -> bool:
    """Return whether this system has memory to share without a name."""
    return hasattr(os, "memfd_create")


def shared_array(blocks: Iterable[NDArray[Any]], n_rows: int, peers: Peers) -> NDArray[Any]:
    """Return the `n_rows` rows that `blocks` yields, in memory that all peers share.

    Only the writer takes them; its error is a CacheError on the others. What one process
    writes into the array the others see. To be called by all of them, where `can_share`.
    """
    if peers.writes:
        return _write(blocks, n_rows, peers)
    address: _Address | str = peers.tell(None)
    if isinstance(address, str):
        raise CacheError(address)
    try:
        return address.mapped()
    except OSError as error:
        _log.warning("rows are held by each process, memory cannot be shared: %s", error)
    finally:
        peers.barrier()
    return _gathered(blocks, n_rows, lambda shape, dtype: np.empty(shape, dtype))


def _write(blocks: Iterable[NDArray[Any]], n_rows: int, peers: Peers) -> NDArray[Any]:
    file = os.memfd_create("geocache")

    def room(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        os.ftruncate(file, _n_bytes(shape, dtype))
        return _map(file, shape, dtype)

    try:
        try:
            array = _gathered(blocks, n_rows, room)
        except BaseException as error:
            # Without a word the others would wait for ever.
            peers.tell(f"rows must be read by the process that writes, got {error!s}")
            raise
        opened = os.fstat(file)
        peers.tell(
            _Address(os.getpid(), file, opened.st_dev, opened.st_ino, array.shape, array.dtype.str)
        )
        peers.barrier()  # it must stay open until all have mapped it
        return array
    finally:
        os.close(file)


def _gathered(
    blocks: Iterable[NDArray[Any]],
    n_rows: int,
    room: Callable[[tuple[int, ...], np.dtype[Any]], NDArray[Any]],
) -> NDArray[Any]:
    array: NDArray[Any] | None = None
    start = 0
    for block in blocks:
        if array is None:
            array = room((n_rows, *block.shape[1:]), block.dtype)
        array[start : start + len(block)] = block
        start += len(block)
    assert array is not None, "there are rows"
    return array


def _n_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return max(math.prod(shape) * dtype.itemsize, 1)


def _map(file: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    memory = mmap.mmap(file, _n_bytes(shape, dtype))
    return np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)
