"""Dask's workers and schedulers die, users interrupt: a clear message, and nothing is lost.

`tests/pipeline/test_failures.py` has the serial build that is killed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scenarios import check_readers, files, tiny_build, truth
from worlds import images

import geocache
from geocache.data.identity import row_order

N = 2100
"""Two units: 2,048 rows and 52."""
SECOND_UNIT = 2060
TARGETS = ("logits", "mst@stage1")
PROGRAM = "import sys; from geocache.cli import main; sys.exit(main())"
CLUSTER = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0")
    print(cluster.scheduler_address, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def groups_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the real size of row groups: workers are other processes."""
    monkeypatch.setattr("geocache.data.layout._GROUP_BYTES", 64 * 2**20)
    monkeypatch.setattr("geocache.data.layout._CHUNK_BYTES", 2**20)


@pytest.fixture
def flag(tmp_path: Path) -> Path:
    flag = tmp_path / "flag"
    flag.touch()
    return flag


def harmful(harm: str, flag: Path, row: int = SECOND_UNIT) -> dict[str, Any]:
    dataset = images(n=N)
    index = int(row_order(dataset.digests(), dataset.labels)[row])
    return {"n": N, "harm": harm, "harmful": index, "flag": str(flag)}


def check_resumed(store: Path, data: dict[str, Any], left: int, tmp_path: Path) -> None:
    """Assert that a next build does what is left, and that the cache is as if undisturbed."""
    undisturbed = tiny_build(tmp_path / "undisturbed", data={"n": N}, targets=TARGETS)
    path = store / undisturbed.path.name
    check_readers(path, (truth(undisturbed.path),))
    report = tiny_build(store, data=data, targets=TARGETS)
    assert (report.rows_built, report.failures) == (left, ())
    assert files(path) == files(undisturbed.path)


def test_a_worker_killed_in_the_middle_is_replaced(flag: Path, tmp_path: Path) -> None:
    data = harmful("kill once", flag)
    report = tiny_build(
        tmp_path / "store", data=data, targets=TARGETS, executor="dask", n_workers=1
    )
    assert report.failures == ()
    assert not flag.exists()
    check_resumed(tmp_path / "store", data, 0, tmp_path)


def environment() -> dict[str, str]:
    paths = (Path(geocache.__file__).parents[1], Path(__file__).parents[1] / "pipeline")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}


@pytest.fixture
def cluster() -> Iterator[tuple[str, int]]:
    """A cluster in another process: its scheduler's address and process id."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=environment(), text=True,
    )  # fmt: skip
    assert process.stdout is not None
    yield process.stdout.readline().strip(), process.pid
    process.kill()
    process.communicate()


def test_a_lost_scheduler_is_said_in_one_line(
    cluster: tuple[str, int], flag: Path, tmp_path: Path
) -> None:
    address, process = cluster
    flag.write_text(str(process))
    data = harmful("kill another", flag)
    report = tiny_build(
        tmp_path / "store", data=data, targets=TARGETS, executor="dask", scheduler=address
    )
    assert len(report.failures) == 1
    assert re.search(r"^the scheduler was lost\..*same command", report.failures[0].reason)
    flag.unlink()
    tiny_build(tmp_path / "store", data=data, targets=TARGETS)
    check_resumed(tmp_path / "store", data, 0, tmp_path)


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(flag: Path, tmp_path: Path) -> None:
    data = harmful("interrupt", flag)
    options = ", ".join(f"{key} = {value!r}" for key, value in data.items())
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f"""
[data]
dataset = "tiny_world:images"
options = {{{options}}}
[teacher]
model = "tiny_world:teacher"
[student]
model = "simple_cnn"
[[loss]]
name = "distillation"
""")
    command = ["build", str(recipe), "--store", str(tmp_path / "store"), "--executor", "serial"]
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command],
        capture_output=True, text=True, check=False, env=environment(),
    )  # fmt: skip
    assert ran.returncode == 130, ran.stderr
    assert "interrupted" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not flag.exists()
    again = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command],
        capture_output=True, text=True, check=False, env=environment(),
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
