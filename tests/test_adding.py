"""`docs/adding.md`, followed from scratch: its files, its recipes, its commands."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geocache.cli import main
from geocache.data.cache import Cache
from geocache.data.catalog import list_caches
from geocache.models import Taps, build_model, load_weights
from geocache.student_train import Loader, build_loss
from geocache.targets import parse_target

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
LAYER, ARRAY = "conv3", "mypackage~mytarget~Spread.p2"


def blocks(language: str) -> list[str]:
    """Return the code blocks of a language, in the page's order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def write_files(folder: Path) -> None:
    """Write every block that names its file in its first line."""
    (folder / "mypackage").mkdir()
    (folder / "mypackage" / "__init__.py").touch()
    for block in (*blocks("python"), *blocks("toml")):
        (folder / block.splitlines()[0].removeprefix("# ")).write_text(block, encoding="utf-8")


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Follow the page in an empty folder; return the folder, which stays the current one."""
    folder = tmp_path_factory.mktemp("adding")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("GEOCACHE_STORE", str(folder / "store"))
        patch.setattr(sys, "path", list(sys.path))
        write_files(folder)
        (commands,) = blocks("sh")
        for command in commands.splitlines():
            program, *args = shlex.split(command)
            assert program == "geocache" and main(args) == 0, command
        yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "mypackage"]:
        del sys.modules[name]


@pytest.fixture
def cache(followed: Path) -> Cache:
    """The cache that the page's second command built."""
    (entry,) = list_caches(followed / "store")
    return Cache(entry.path)


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


def standard_deviations(maps: torch.Tensor) -> np.ndarray:
    """Return what Spread of p = 2 is by definition, in float64."""
    return maps.detach().double().numpy().std(axis=(2, 3))


def features(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with Taps(model.eval(), [LAYER]) as taps:
        return taps(images)[1][LAYER]


def test_the_runs_are_there_and_used_the_loss(followed: Path) -> None:
    """A teacher that has learnt, and a student whose second term is the user's, at its share."""
    teacher, student = (records(followed / "runs" / name) for name in ("teacher", "student"))
    assert teacher[-1]["last_test_accuracy"] > 0.7
    start, end = student[0], student[-1]
    assert list(start["terms"]) == ["cross_entropy", "mypackage.myloss:MatchSpread@conv3"]
    weighted = start["terms"]["mypackage.myloss:MatchSpread@conv3"]["weighted"]
    assert weighted == pytest.approx(0.5 * start["cross_entropy"])
    assert end["event"] == "end" and end["n_epochs"] == 10


def test_the_cache_holds_the_target_and_nothing_else(cache: Cache) -> None:
    """Dask's worker computed the teacher's standard deviations, row by row."""
    assert cache.target_names() == (f"{LAYER}/{ARRAY}",)
    assert cache.n_built(f"{LAYER}/{ARRAY}") == cache.n_rows == 200
    teacher = build_model(
        "mypackage.mymodel:build", n_classes=3, input_shape=(3, 16, 16), options={"width": 32}
    )
    load_weights(teacher, "runs/teacher/best.pt")
    batch = next(Loader(cache).in_order())
    rows = cache.read(f"{LAYER}/{ARRAY}", 0, cache.n_rows)[batch.rows.numpy()]
    expected = standard_deviations(features(teacher, batch.images))
    np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-5)
    assert expected.max() > 0.1


def test_the_loss_is_its_formula(cache: Cache) -> None:
    """On a batch of the cache, with a student of its own weights."""
    loss = build_loss("mypackage.myloss:MatchSpread", {"p": 2})
    batch = next(Loader(cache, loss.targets(LAYER), batch_size=16).epoch(0))
    torch.manual_seed(5)
    student = build_model("mypackage.mymodel:build", n_classes=3, input_shape=(3, 16, 16))
    maps = features(student, batch.images).detach().requires_grad_()
    value = loss(student=maps, target=batch.at(LAYER))
    teacher = batch.targets[f"{LAYER}/{ARRAY}"].double().numpy()
    expected = np.mean((standard_deviations(maps) - teacher) ** 2)
    assert value.item() == pytest.approx(expected, rel=1e-5) and expected > 0
    value.backward()
    assert maps.grad is not None and maps.grad.isfinite().all()


def test_the_command_line_s_names_are_those_of_the_loss(followed: Path) -> None:
    """Both spellings in the page mean the array that the recipe stored."""
    texts = re.findall(r"`(?:geocache build \.\.\. --target )?(mypackage\.mytarget:\S+@\w+)`", PAGE)
    assert len(texts) == 2
    assert all([t.name for t in parse_target(text)] == [f"{LAYER}/{ARRAY}"] for text in texts)
    several = parse_target("mypackage.mytarget:Spread:p=1,2@conv3")
    assert [t.target.parameters for t in several] == [{"p": 1}, {"p": 2}]


def test_the_layers_command_of_the_page_lists_them(
    followed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The user's model by its name, as the page writes it."""
    (command,) = re.findall(r"`geocache (layers [^`]+)`", PAGE)
    assert main(shlex.split(command)) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("conv1", "conv2", "conv3", "32 x 4 x 4"))


def test_layers_that_cannot_be_compared_are_named(
    followed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The user's ShapeError is completed with the layers that would fit."""
    out = ["--out", "other", "--set", "loss.1.student=conv2"]
    assert main(["train", "student.toml", *out]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "equally many channels" in error
    assert "layer 'conv2'" in error and "conv3 (32x4x4)" in error


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:tests|geocache)/[\w/.]+)`", PAGE))))
def test_the_places_in_geocache_exist(path: str) -> None:
    """Files and folders that the page names are there; NAME.py stands for a new one."""
    assert (ROOT / path).parent.is_dir() if "NAME" in path else (ROOT / path).exists()


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("geocache/targets/mst.py", "TARGET = "),
        ("geocache/student_train/losses/hint.py", "LOSS = "),
        ("geocache/models/cnn1.py", "VARIANTS"),
        ("tests/targets/test_target_conformance.py", "EXAMPLES = "),
        ("tests/student_train/losses/test_loss_conformance.py", "CASES = "),
    ],
)
def test_what_the_page_says_of_these_places_is_so(path: str, word: str) -> None:
    """The names that it tells to write are those that geocache looks for."""
    assert word in (ROOT / path).read_text(encoding="utf-8") and word.removesuffix(" = ") in PAGE
