"""A disk that forgets what was not synced: what counts is whole, and the next build ends alike.

SIGKILL cannot show a missing sync, because the system's memory outlives the process.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from layers import Forgetful, Watched, lost, mixed, torn
from scenarios import SCENARIOS, Prepared, check_readers, committed, files

from geocache.data.files import using_files

N_MIXED = 2
State = tuple[tuple[str, bytes], ...]
"""The files of a store after a power cut."""


def cut_states(
    scenario: Prepared, store: Path, layer: type[Forgetful] = Forgetful
) -> tuple[list[State], int]:
    """Return every different state that a power cut may leave, and the number of cut points."""
    scenario.start(store)
    states: dict[State, None] = {}

    def watch(point: int) -> None:
        for choice in (lost(), torn(), *(mixed(N_MIXED * point + k) for k in range(N_MIXED))):
            states[tuple(sorted(disk.crash(choice).items()))] = None

    disk = layer(store, watch)
    with using_files(disk):
        scenario.step(store)
    watch(disk.point)
    shutil.rmtree(store)
    return list(states), disk.point + 1


def write_state(store: Path, state: State) -> None:
    for name, data in state:
        path = store / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def check_and_resume(scenario: Prepared, store: Path, state: State) -> None:
    write_state(store, state)
    path = store / scenario.cache_name
    check_readers(path, scenario.truths)
    safe = committed(path)
    with using_files(Watched()):
        report = scenario.step(store)
    assert report.failures == ()
    assert files(path) == scenario.after
    after = committed(path)
    assert {key: after[key] for key in safe} == safe
    shutil.rmtree(store)


def check_some(scenario: Prepared, folder: Path, limit: int | None) -> None:
    states, n_points = cut_states(scenario, folder / "first")
    assert n_points > 20
    for state in states[:: max(1, len(states) // limit) if limit else 1]:
        check_and_resume(scenario, folder / "store", state)


@pytest.mark.parametrize("name", SCENARIOS)
def test_power_cut_at_some_points(prepared: dict[str, Prepared], name: str, tmp_path: Path) -> None:
    check_some(prepared[name], tmp_path, 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_power_cut_at_every_point(prepared: dict[str, Prepared], name: str, tmp_path: Path) -> None:
    check_some(prepared[name], tmp_path, None)


def test_what_a_build_returned_from_survives(prepared: dict[str, Prepared], tmp_path: Path) -> None:
    for scenario in prepared.values():
        store = tmp_path / "store"
        scenario.start(store)
        disk = Forgetful(store)
        with using_files(disk):
            scenario.step(store)
        left = disk.crash(lost())
        front = f"{scenario.cache_name}/"
        kept = {key.removeprefix(front): data for key, data in left.items()}
        # An outgrown receipt or an announcement may come back; readers know which one counts.
        assert {key: kept[key] for key in scenario.after} == scenario.after
        shutil.rmtree(store)


class WithoutSync(Forgetful):
    """A program that forgets to sync files."""

    def sync(self, path: Path) -> None:
        self.before("sync", path)


class WithoutFolderSync(Forgetful):
    """A program that forgets to sync folders."""

    def sync_folder(self, path: Path) -> None:
        self.before("sync_folder", path)


def test_the_model_finds_missing_syncs(prepared: dict[str, Prepared], tmp_path: Path) -> None:
    scenario = prepared["more rows"]
    for number, layer in enumerate((WithoutSync, WithoutFolderSync)):
        states, _ = cut_states(scenario, tmp_path / "first", layer)
        folder = tmp_path / str(number)

        def harmed(state: State, folder: Path = folder) -> bool:
            shutil.rmtree(folder, ignore_errors=True)
            try:
                write_state(folder, state)
                check_readers(folder / scenario.cache_name, scenario.truths)
            except Exception:
                return True
            return False

        assert any(harmed(state) for state in states)


class Killed(BaseException):
    """What stands for SIGKILL within one process: nothing of it is caught."""


@dataclass
class Dying(Forgetful):
    """Its process dies at a call; what the disk holds is remembered for the next one."""

    dies_at: int = -1
    dead: bool = False

    def before(self, call: str, path: Path, data: bytes = b"") -> None:
        if self.dead or self.point == self.dies_at:
            self.dead = True
            raise Killed
        self.point += 1


def check_killed_then_cut(scenario: Prepared, store: Path, point: int) -> bool:
    """Kill the step, take it again, and cut the power; return whether the point was reached."""
    scenario.start(store)
    disk = Dying(store, dies_at=point)
    with using_files(disk):
        try:
            scenario.step(store)
        except Killed:
            disk.dies_at, disk.dead = -1, False
            scenario.step(store)
        else:
            shutil.rmtree(store)
            return False
    left = tuple(sorted(disk.crash(lost()).items()))
    shutil.rmtree(store)
    front = f"{scenario.cache_name}/"
    kept = {key.removeprefix(front): data for key, data in left}
    changed = [key for key, data in scenario.after.items() if kept.get(key) != data]
    assert not changed, f"lost after point {point}: {changed}"
    return True


def check_killed_then_cut_at_each(scenario: Prepared, store: Path, step: int) -> None:
    point = 0
    while check_killed_then_cut(scenario, store, point):
        point += step
    assert point > 20


@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_resumed_and_then_cut(
    prepared: dict[str, Prepared], name: str, tmp_path: Path
) -> None:
    """What a writer that was killed left unsynced is not taken for safe by the next one."""
    check_killed_then_cut_at_each(prepared[name], tmp_path / "store", 41)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_at_each_point_resumed_and_then_cut(
    prepared: dict[str, Prepared], name: str, tmp_path: Path
) -> None:
    check_killed_then_cut_at_each(prepared[name], tmp_path / "store", 1)
