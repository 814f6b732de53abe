"""Run command lines in this process, and small data for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geocache.cli import main

RECIPE = """
[data]
dataset = "digits"
limit = 60
[teacher]
model = "resnet_cifar"
options = {depth = 8}
[student]
model = "simple_cnn"
[[loss]]
name = "cross_entropy"
[[loss]]
name = "affinity_contrast"
student = "conv2"
teacher = "layer2"
radius = 2
share = 0.5
[train]
epochs = 2
batch_size = 16
device = "cpu"
validation = 0.2
"""


@dataclass(frozen=True)
class Ran:
    """What a command line came to."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The error's one line; progress lines may stand before it."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("geocache: ")]
        assert self.err.splitlines()[-1] == line
        return line


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """Return a function that runs `geocache ARGS` in an empty folder with a store of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEOCACHE_STORE", str(tmp_path / "store"))

    def run(*args: object) -> Ran:
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def build(run: Callable[..., Ran]) -> Callable[..., Ran]:
    """Return a function that builds the first 40 digits under a tiny teacher, in this process."""

    def build(*more: object) -> Ran:
        fixed = ("--teacher", "resnet_cifar", "--teacher-option", "depth=8")
        data = () if "--dataset" in more else ("--dataset", "digits", "--limit", 40)
        target = () if "--target" in more else ("--target", "logits")
        executor = () if "--executor" in more else ("--executor", "serial")
        return run("build", *fixed, *data, *target, *executor, "--batch-size", 20, *more)

    return build


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe: 60 digits of 8 x 8, affinity contrast on the 4 x 4 grid."""
    path = tmp_path / "small.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of two classes with four 8 x 8 PNG images each."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / label / f"{number}.png")
    return tmp_path / "pictures"
