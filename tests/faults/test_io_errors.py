"""A disk that fails or is full at any call: one line says so, and nothing is torn."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
from layers import Failing, Watched
from scenarios import SCENARIOS, Prepared, check_readers, committed, files

from geocache.data.files import using_files
from geocache.errors import CacheError, StorageError


def fail_and_resume(scenario: Prepared, store: Path, point: int, number: int) -> bool:
    """Take the step with a failing call and then without; return whether the call was reached."""
    path = scenario.start(store)
    failing = Failing(point, number)
    try:
        with using_files(failing):
            reasons = [failure.reason for failure in scenario.step(store).failures]
    except (StorageError, CacheError) as error:
        reasons = [str(error)]
    for reason in reasons:
        assert "\n" not in reason
        said = "could not be" in reason or "cannot be read" in reason
        assert "the disk is full" in reason if number == errno.ENOSPC else said, reason
    # A temporary file may stay for the next build, and an unreadable receipt be written again.
    if failing.struck and not reasons:
        assert number == errno.EIO
    check_readers(path, scenario.truths)
    safe = committed(path)
    with using_files(Watched()):
        report = scenario.step(store)
    assert report.failures == ()
    assert files(path) == scenario.after
    after = committed(path)
    assert {key: after[key] for key in safe} == safe
    shutil.rmtree(store)
    return failing.struck > 0


def fail_until_untouched(scenario: Prepared, store: Path, number: int, step: int) -> int:
    point = 0
    while fail_and_resume(scenario, store, point, number):
        point += step
    return point


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_some_calls_fail(
    prepared: dict[str, Prepared], name: str, number: int, tmp_path: Path
) -> None:
    fail_until_untouched(prepared[name], tmp_path / "store", number, 47)


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_call_fails(
    prepared: dict[str, Prepared], name: str, number: int, tmp_path: Path
) -> None:
    assert fail_until_untouched(prepared[name], tmp_path / "store", number, 1) > 60
