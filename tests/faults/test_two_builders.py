"""Builders of one cache at once, one that dies, and trainers that read meanwhile."""

from __future__ import annotations

import os
import signal
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layers import Killing, Watched
from scenarios import (
    TARGETS,
    Prepared,
    check_readers,
    files,
    tiny_build,
    truth,
)

from geocache.data.cache import Cache
from geocache.data.files import using_files

N_UNITS_ROWS = 2100
"""Two units: 2,048 rows and 52."""


class Builder:
    """A build in a fork that waits at a gate, and that says over a pipe how many rows it did."""

    def __init__(self, gate: int, work: Callable[[], Any]) -> None:
        self._result, writes = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process = os.fork()
        if self.process == 0:
            code = 1
            try:
                os.read(gate, 1)
                report = work()
                os.write(writes, f"{report.rows_built} {len(report.failures)}".encode())
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writes)

    def rows_built(self) -> int:
        """Wait for it, and return the rows that it did."""
        said = os.read(self._result, 100).decode().split()
        os.close(self._result)
        assert os.waitpid(self.process, 0)[1] == 0
        assert said[1] == "0"
        return int(said[0])


def at_once(*works: Callable[[], Any]) -> list[int]:
    """Let builders go at the same moment; return the rows that each did."""
    gate, opens = os.pipe()
    builders = [Builder(gate, work) for work in works]
    os.write(opens, b"g" * len(works))
    rows = [builder.rows_built() for builder in builders]
    os.close(gate)
    os.close(opens)
    return rows


@pytest.fixture
def groups_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the real size of row groups, where a build has several units."""
    monkeypatch.setattr("geocache.data.layout._GROUP_BYTES", 64 * 2**20)
    monkeypatch.setattr("geocache.data.layout._CHUNK_BYTES", 2**20)


def test_two_builders_divide_the_work(groups_as_they_are: None, tmp_path: Path) -> None:
    data = {"n": N_UNITS_ROWS}
    single = tiny_build(tmp_path / "single", data=data)

    def work() -> Any:
        return tiny_build(tmp_path / "shared", data=data)

    assert sum(at_once(work, work)) == N_UNITS_ROWS
    assert files(tmp_path / "shared" / single.path.name) == files(single.path)


def test_two_builders_of_other_targets(prepared: dict[str, Prepared], tmp_path: Path) -> None:
    store = tmp_path / "store"
    rows = at_once(
        lambda: tiny_build(store, targets=TARGETS[:2]),
        lambda: tiny_build(store, targets=("logits", *TARGETS[2:])),
    )
    scenario = prepared["a new cache"]
    assert all(n in (0, 20) for n in rows)
    path = store / scenario.cache_name
    check_readers(path, scenario.truths)
    tiny_build(store)  # Alone, to remove what two at once leave.
    # Only the note on what a target was derived from may differ, so the rows are compared.
    for name, values in truth(path).items():
        assert np.array_equal(values, scenario.truths[-1][name])


class Overtaken(Watched):
    """Before call number `point`, somebody else's whole work is done."""

    def __init__(self, point: int, work: Callable[[], Any]) -> None:
        self.left, self.work = point, work

    def before(self, call: str, path: Path, data: bytes = b"") -> None:
        self.left -= 1
        if self.left == -1:
            with using_files(Watched()):
                self.work()


def test_a_builder_is_overtaken_while_it_creates_the_cache(
    prepared: dict[str, Prepared], tmp_path: Path
) -> None:
    """Whoever removes leftovers must not take a root document that is being written for one."""
    scenario = prepared["a new cache"]
    point, in_creation = 0, True
    while in_creation:
        store = tmp_path / str(point)
        path = store / scenario.cache_name

        def overtake(store: Path = store, path: Path = path) -> None:
            nonlocal in_creation
            in_creation = not (path / "zarr.json").exists()
            if in_creation:
                assert scenario.step(store).rows_built == 20

        with using_files(Overtaken(point, overtake)):
            assert scenario.step(store).rows_built == (0 if in_creation else 20)
        check_readers(path, scenario.truths)
        scenario.step(store)  # Alone, to remove what two at once leave.
        assert files(path) == scenario.after
        point += 1
    assert point > 5


def test_a_builder_that_dies_does_not_hold_up_the_other(
    prepared: dict[str, Prepared], tmp_path: Path
) -> None:
    """One is stopped in the middle of its unit, holding its locks, then killed: the other ends."""
    scenario = prepared["a new cache"]
    store = tmp_path / "store"
    path = scenario.start(store)
    ready, says = os.pipe()

    class Stopping(Killing):
        def before(self, call: str, path: Path, data: bytes = b"") -> None:
            if self.left == 0:
                os.write(says, b"!")
                os.kill(os.getpid(), signal.SIGSTOP)
            self.left -= 1

    def stopped() -> Any:
        with using_files(Stopping(150)):
            return scenario.step(store)

    gate, opens = os.pipe()
    os.write(opens, b"go")
    first = Builder(gate, stopped)
    assert os.read(ready, 1) == b"!"
    second = Builder(gate, lambda: scenario.step(store))
    check_readers(path, scenario.truths)
    os.kill(first.process, signal.SIGKILL)
    os.waitpid(first.process, 0)
    assert second.rows_built() == 20
    # Who came while the other was alive could not clean up after it; the next one does.
    with using_files(Watched()):
        scenario.step(store)
    assert files(path) == scenario.after


def test_twenty_trainers_read_while_a_builder_adds(
    prepared: dict[str, Prepared], tmp_path: Path
) -> None:
    scenario = prepared["more targets"]
    path = scenario.start(tmp_path / "store")
    expected = scenario.truths[0]
    building = threading.Event()
    errors: list[BaseException] = []
    began = threading.Barrier(21)

    def train() -> None:
        try:
            began.wait()
            first = True
            while first or building.is_set():
                first = False
                cache = Cache(path)
                for name in ("logits", "images"):
                    assert np.array_equal(cache.read(name, 0, 20), expected[name])
                assert np.array_equal(cache.read("labels", 0, 20), expected["labels"])
                check_readers(path, scenario.truths)
        except BaseException as error:
            errors.append(error)

    gate, opens = os.pipe()
    builder = Builder(gate, lambda: scenario.step(tmp_path / "store"))  # Before the threads.
    trainers = [threading.Thread(target=train) for _ in range(20)]
    building.set()
    for trainer in trainers:
        trainer.start()
    began.wait()
    os.write(opens, b"g")
    try:
        assert builder.rows_built() == 20
    finally:
        building.clear()
        for trainer in trainers:
            trainer.join()
    assert not errors, errors[0]
    assert files(path) == scenario.after
