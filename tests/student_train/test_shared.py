"""One copy of resident rows for the processes of a machine: seen by all, and left by none."""

from __future__ import annotations

import dataclasses
import multiprocessing as mp
import os
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geocache.errors import CacheError
from geocache.student_train import Loader
from geocache.student_train.memory import loader_budget
from geocache.student_train.shared import can_share, shared_array

pytestmark = pytest.mark.skipif(not can_share(), reason="no memory without a name on this system")

SPAWN = mp.get_context("spawn")
CPU = torch.device("cpu")
ROWS = np.arange(60, dtype=np.int16).reshape(20, 3)


@dataclass
class Pair:
    """Two processes that talk over a pipe; the first writes."""

    writes: bool
    line: Any

    def _both(self, value: Any) -> tuple[Any, Any]:
        self.line.send(value)
        return value, self.line.recv()

    def tell(self, value: Any) -> Any:
        """Return the first one's."""
        mine, theirs = self._both(value)
        return mine if self.writes else theirs

    def least(self, value: int) -> int:
        """Return the smaller."""
        return int(min(self._both(value)))

    def barrier(self) -> None:
        """Wait for the other."""
        self._both(None)


def _run(work: Callable[..., Any], pair: Pair, result: Any, arguments: tuple[Any, ...]) -> None:
    try:
        result.send(work(pair, *arguments))
    except Exception:
        result.send(traceback.format_exc())


def started(work: Callable[..., Any], *arguments: Any) -> tuple[Pair, Any, Any]:
    """Start `work(pair, ...)` as the second process; return the first's pair, it, its result."""
    ours, theirs = SPAWN.Pipe()
    result, sent = SPAWN.Pipe(duplex=False)
    other = SPAWN.Process(target=_run, args=(work, Pair(False, theirs), sent, arguments))
    other.start()
    theirs.close(), sent.close()
    return Pair(True, ours), other, result


def blocks() -> Iterator[Any]:
    """Yield the rows in three parts."""
    yield from (ROWS[:8], ROWS[8:16], ROWS[16:])


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Return what says which files are left where shared memory and temporary files get names."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    shm = Path("/dev/shm")

    def names() -> list[str]:
        return [str(p) for folder in (tmp_path, shm) for p in folder.glob("*geocache*")] + [
            str(p) for p in tmp_path.iterdir()
        ]

    return names


def _sees_and_writes(pair: Pair) -> list[int]:
    array = shared_array(iter(()), 20, pair)  # only the first has rows to give
    assert array.dtype == np.int16
    seen = array[:, 1].tolist()
    pair.barrier()
    array[3, 1] = -7
    pair.barrier()
    return seen


def test_two_processes_hold_one_copy(left: Callable[[], list[str]]) -> None:
    """What one writes the other sees: there is no second one."""
    pair, other, result = started(_sees_and_writes)
    array = shared_array(blocks(), 20, pair)
    np.testing.assert_array_equal(array, ROWS)
    pair.barrier()
    pair.barrier()
    assert array[3, 1] == -7
    assert result.recv() == ROWS[:, 1].tolist()
    other.join()
    array[:] = 5  # it outlives the other
    assert not left()


def _epoch(pair: Pair, cache: Any, options: dict[str, Any]) -> list[Any]:
    loader = Loader(cache, ("logits",), peers=pair, rank=1, world_size=2, **options)
    batches = [
        (b.rows.numpy(), b.images.numpy(), b.at()["logits"].numpy()) for b in loader.epoch(1)
    ]
    return [loader.describe(), batches]


class Grouped:
    """A cache that counts in row groups of 8, and whose rows one process alone may read."""

    def __init__(self, cache: Any, *, readable: bool) -> None:
        self.cache, self.readable = cache, readable

    def __getattr__(self, name: str) -> Any:
        if name in ("cache", "readable") or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.cache, name)

    def group_rows(self, name: str, /) -> int:
        return 8

    def read(self, name: str, start: int, stop: int, view: int = 0) -> Any:
        assert self.readable, f"{name} was read"
        return self.cache.read(name, start, stop, view)


def test_loaders_of_two_processes_give_the_batches_of_one(small_cache: Any) -> None:
    """Rows that fit once but not twice are resident; the second process reads none of them."""
    exact = 200 * (8 * 8 * 3 + small_cache.row_bytes("logits"))
    options: dict[str, Any] = {"memory": exact, "rows": range(200), "batch_size": 64, "seed": 3}
    pair, other, result = started(_epoch, Grouped(small_cache, readable=False), options)
    source: Any = Grouped(small_cache, readable=True)
    ours = Loader(source, ("logits",), peers=pair, rank=0, world_size=2, **options)
    why, theirs = result.recv()
    other.join()
    assert ours.describe() == why and "one copy for all ranks" in why
    one = Loader(small_cache, ("logits",), **options)
    triples = zip(one.epoch(1), ours.epoch(1), theirs, strict=True)
    for whole, mine, (rows, images, logits) in triples:
        assert torch.equal(whole.rows, torch.cat([mine.rows, torch.from_numpy(rows)]))
        assert torch.equal(whole.images, torch.cat([mine.images, torch.from_numpy(images)]))
        assert torch.equal(whole.at()["logits"][len(mine.rows) :], torch.from_numpy(logits))


def _just_maps(pair: Pair) -> Any:
    return shared_array(iter(()), 20, pair)


def test_an_error_of_the_process_that_reads_reaches_the_other() -> None:
    def damaged() -> Iterator[Any]:
        yield ROWS[:8]
        raise CacheError("object 'c/1' is damaged")

    pair, other, result = started(_just_maps)
    with pytest.raises(CacheError, match=r"^object 'c/1' is damaged"):
        shared_array(damaged(), 20, pair)
    assert "CacheError: rows must be read by the process that writes, got object 'c/1' is" in (
        result.recv()
    )
    other.join()


def _dies_while_it_reads(pair: Pair) -> None:
    def dying() -> Iterator[Any]:
        yield ROWS[:8]
        os.kill(os.getpid(), signal.SIGKILL)

    pair.writes = True
    shared_array(dying(), 20, pair)


def _dies_when_it_has_mapped(pair: Pair) -> None:
    shared_array(iter(()), 20, pair)
    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_processes_leave_nothing(left: Callable[[], list[str]]) -> None:
    _, other, _ = started(_dies_while_it_reads)
    other.join()
    assert other.exitcode == -signal.SIGKILL and not left()
    pair, other, _ = started(_dies_when_it_has_mapped)
    array = shared_array(blocks(), 20, pair)
    other.join()
    assert other.exitcode == -signal.SIGKILL and not left()
    np.testing.assert_array_equal(array, ROWS)


class Hidden(Pair):
    """One that is told a file which is not there, as from another container."""

    def tell(self, value: Any) -> Any:
        """Return the address of a process that there cannot be."""
        return dataclasses.replace(super().tell(value), process=2**22 + 1)


def _cannot_map(pair: Pair) -> list[list[int]]:
    copy = shared_array(blocks(), 20, Hidden(pair.writes, pair.line))
    copy[0] = -1
    return [list(map(int, row)) for row in copy]


def test_a_process_that_cannot_map_reads_for_itself() -> None:
    pair, other, result = started(_cannot_map)
    array = shared_array(blocks(), 20, pair)
    assert result.recv()[1:] == ROWS[1:].tolist()
    other.join()
    np.testing.assert_array_equal(array, ROWS)


class Smaller:
    """A second process with less free memory."""

    writes = True

    def least(self, value: int) -> int:
        """Return half."""
        return value // 2

    def tell(self, value: Any) -> Any:
        """Return it."""
        return value

    def barrier(self) -> None:
        """Do not wait."""


def test_peers_take_the_least_budget_and_share_ram_alone(monkeypatch: Any) -> None:
    peers = Smaller()
    shared = loader_budget("8GB", CPU, 4, peers)
    assert (shared.own, shared.resident, shared.peers) == (10**9, 4 * 10**9, peers)
    alone = loader_budget("8GB", CPU, 4, None)
    assert (alone.own, alone.resident, alone.peers) == (2 * 10**9, 2 * 10**9, None)
    monkeypatch.delattr(os, "memfd_create")
    without = loader_budget("8GB", CPU, 4, peers)
    assert (without.own, without.resident, without.peers) == (10**9, 10**9, None)
