"""`geocache verify` as a user types it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from geocache.cli import main
from geocache.data.cache import Cache

FLAGS = ["--dataset", "digits", "--eval-dataset", "digits"]


@pytest.fixture
def path(small_cache: Cache, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_cache.path, tmp_path / Path(small_cache.path).name))


def test_a_sound_cache(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", path.name[:8], "--store", str(path.parent)]) == 0
    out = capsys.readouterr().out
    assert "0 damaged" in out
    assert len(out.splitlines()) == 1
    assert main(["verify", str(path), "--quick", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["findings"], document["depth"]) == (True, [], "quick")


def test_damage_is_listed_and_repaired(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = "targets/layer2/mst/c/0/0/0"
    before = (path / key).read_bytes()
    (path / key).unlink()
    (path / "notes.txt").write_text("mine")
    assert main(["verify", str(path)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["object", "rows", "finding", "repair"]
    assert out[1].split() == [key, "0", "to", "1436", "is", "missing", "recompute"]
    assert out[2].startswith("notes.txt")
    assert "1 damaged, 1 leftovers or unknown files" in out[-1]
    assert main(["verify", str(path), "--repair"]) == 0
    assert "0 damaged, 1 repaired" in capsys.readouterr().out
    assert (path / key).read_bytes() == before


def test_what_a_repair_needs_is_one_line(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = next(path.glob("eval/*/labels/c/0"))
    before = key.read_bytes()
    key.write_bytes(before[:-1])
    assert main(["verify", str(path), "--repair"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("geocache: the data set must be given to restore eval/")
    assert len(error.splitlines()) == 1
    assert main(["verify", str(path), "--repair", *FLAGS]) == 0
    assert key.read_bytes() == before


def test_a_lost_root_is_told_again(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (path / "zarr.json").read_bytes()
    (path / "zarr.json").write_bytes(before.replace(b"resnet20", b"resnet21"))
    assert main(["verify", str(path)]) == 1
    assert main(["verify", str(path), "--repair"]) == 1
    assert "Give --dataset, --teacher" in capsys.readouterr().err
    assert main(["verify", str(path), "--repair", *FLAGS, "--teacher", "resnet20"]) == 0
    assert (path / "zarr.json").read_bytes() == before


def test_a_deep_look_says_what_was_computed_again(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(path), "--deep"]) == 0
    out = capsys.readouterr().out
    assert "layer2/mst: " in out
    assert "rows computed again, by bits" in out


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["--quick", "--deep"], "cannot be mixed"),
        (["--dataset", "digits"], "--dataset goes with --repair"),
        (["--weights", "x.pt"], "--weights goes with --deep or --repair"),
        (["--repair", "--teacher", "resnet20"], "together with --dataset"),
        (["--repair", "--size", "8"], "--size goes with --teacher"),
    ],
)
def test_usage(flags: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "abcd", *flags]) == 2
    assert what in capsys.readouterr().err
