"""A build killed at every call that changes the disk loses nothing and ends with the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from layers import Counting, Killing, Watched
from scenarios import SCENARIOS, Prepared, check_readers, committed, files, in_child

from geocache.data.files import using_files


def points_of(scenario: Prepared, folder: Path) -> list[tuple[int, bool]]:
    """Return every call of the step, and every write once more to be torn."""
    counting = Counting()
    scenario.start(folder)
    with using_files(counting):
        scenario.step(folder)
    shutil.rmtree(folder)
    whole = [(point, False) for point in range(len(counting.calls))]
    return whole + [(p, True) for p, call in enumerate(counting.calls) if call == "write"]


def kill_and_resume(scenario: Prepared, store: Path, point: int, torn: bool) -> None:
    path = scenario.start(store)

    def step() -> None:
        with using_files(Killing(point, torn=torn)):
            scenario.step(store)

    status = in_child(step)
    assert os.WIFSIGNALED(status), f"point {point} was not reached"
    assert os.WTERMSIG(status) == signal.SIGKILL
    check_readers(path, scenario.truths)
    safe = committed(path)
    with using_files(Watched()):
        report = scenario.step(store)
    assert report.failures == ()
    assert files(path) == scenario.after
    after = committed(path)
    assert {key: after[key] for key in safe} == safe
    shutil.rmtree(store)


@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_at_some_points(prepared: dict[str, Prepared], name: str, tmp_path: Path) -> None:
    points = points_of(prepared[name], tmp_path / "counting")
    for point, torn in points[:: max(1, len(points) // 8)]:
        kill_and_resume(prepared[name], tmp_path / "store", point, torn)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_at_every_point(prepared: dict[str, Prepared], name: str, tmp_path: Path) -> None:
    for point, torn in points_of(prepared[name], tmp_path / "counting"):
        kill_and_resume(prepared[name], tmp_path / "store", point, torn)
