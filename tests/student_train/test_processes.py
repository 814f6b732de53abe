"""Trainings in processes of their own: several devices, and compiled students."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import geocache
from geocache.cli import main
from geocache.student_train import read_records

SCRIPT = """
import sys
from geocache.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""
RECIPE = """
data = {dataset = "digits", limit = 110}
student = {model = "simple_cnn"}
train = {epochs = 2, batch_size = 21, device = "cpu", lr = 0.05, threads = 1, validation = 0.1}
[[loss]]
name = "cross_entropy"
label_smoothing = 0.1
"""


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Give back the threads that a training in this process takes."""
    n = torch.get_num_threads()
    yield
    torch.set_num_threads(n)


def _train(folder: Path, out: str, *more: str, recipe: str = RECIPE) -> dict[str, Any]:
    """Train in a process of its own, which starts others, and return the last checkpoint."""
    (folder / "run.py").write_text(SCRIPT, encoding="utf-8")
    (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(geocache.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "run.py", "train", "recipe.toml", "--out", out, *more],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    state: dict[str, Any] = torch.load(folder / out / "last.pt", weights_only=True)
    return state


def _train_here(folder: Path, out: str, *more: str) -> dict[str, Any]:
    (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    assert main(["train", str(folder / "recipe.toml"), "--out", str(folder / out), *more]) == 0
    state: dict[str, Any] = torch.load(folder / out / "last.pt", weights_only=True)
    return state


def _distance(a: dict[str, Any], b: dict[str, Any]) -> float:
    return max(float((a["model"][n] - b["model"][n]).abs().max()) for n in a["model"])


def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    """99 rows in batches of 21, split 10 and 11, the last one of 15: the weights to 1e-6."""
    one = _train_here(tmp_path, "one")
    two = _train(tmp_path, "two", "--set", "train.devices=2")
    assert _distance(one, two) < 1e-6
    logs = [read_records(tmp_path / name) for name in ("one", "two")]
    assert [[r["event"] for r in log] for log in logs] == [["start", "epoch", "epoch", "end"]] * 2
    for ours, theirs in zip(*(log[1:3] for log in logs), strict=True):
        assert theirs["train_accuracy"] == ours["train_accuracy"]
        assert theirs["validation_accuracy"] == ours["validation_accuracy"]
        assert theirs["test_accuracy"] == pytest.approx(ours["test_accuracy"], abs=1 / 360)
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-5)
    assert {p.name for p in (tmp_path / "one").iterdir()} == {
        p.name for p in (tmp_path / "two").iterdir()
    }
    resumed = ("--resume", "--set", "train.epochs=3")
    longer = _train(tmp_path, "two", *resumed, "--set", "train.devices=2")
    assert _distance(_train_here(tmp_path, "one", *resumed), longer) < 1e-6


def test_two_processes_stream_what_one_does(tmp_path: Path) -> None:
    """98 of 99 rows in batches of 14, split 7 and 7: the odd one cannot be shared, and is left."""
    streamed = ("--set", "data.mode=stream", "--set", "train.batch_size=14")
    streamed += ("--set", "train.epochs=1")
    one = _train_here(tmp_path, "one", *streamed)
    two = _train(tmp_path, "two", *streamed, "--set", "train.devices=2")
    assert _distance(one, two) < 1e-6
    (start, ours, _), (started, theirs, _) = (read_records(tmp_path / n) for n in ("one", "two"))
    assert start["n_steps"] == started["n_steps"] == 7
    assert started["terms"] == start["terms"]  # measured on whole batches, by every process
    assert theirs["train_accuracy"] == ours["train_accuracy"]
    assert theirs["validation_accuracy"] == ours["validation_accuracy"]


@pytest.mark.slow
def test_a_compiled_student_trains_alike_under_its_own_names(tmp_path: Path) -> None:
    """A layer is tapped; compiled code rounds otherwise: the same weights to 1e-4."""
    recipe = RECIPE + '[[loss]]\nname = "contrastive"\nstudent = "conv2"\nweight = 0.1\n'
    plain = _train(tmp_path, "plain", recipe=recipe)
    compiled = _train(tmp_path, "compiled", "--compile", recipe=recipe)
    assert plain["model"].keys() == compiled["model"].keys()
    assert 0 < _distance(plain, compiled) < 1e-4
