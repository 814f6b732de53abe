"""Checkpoints from elsewhere: nothing in them is run, and they cannot expand."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from geocache.errors import CheckpointError
from geocache.models import load_weights
from geocache.student_train.checkpoint import FORMAT, load_checkpoint
from geocache.student_train.evaluate import load_student


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def by_torch(path: Path, content: Any) -> None:
    torch.save(content, path)


def by_old_torch(path: Path, content: Any) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def by_pickle(path: Path, content: Any) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("write", [by_torch, by_old_torch, by_pickle])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"model": {"w": x}, "format": FORMAT}])
def test_a_pickle_is_not_run(
    tmp_path: Path, write: Callable[..., None], wrap: Callable[..., Any]
) -> None:
    path, trace = tmp_path / "best.pt", tmp_path / "was-run"
    write(path, wrap(Runs(trace)))
    for load in (lambda: load_weights(nn.Linear(2, 2), path), lambda: load_checkpoint(path)):
        with pytest.raises(CheckpointError) as found:
            load()
        assert "\n" not in str(found.value) and len(str(found.value)) < 600
    assert not trace.exists()
    if write is by_pickle:
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert trace.exists()  # It would have run.


def rewritten(path: Path, kind: int, data: bytes | None = None) -> None:
    """Write a checkpoint's archive again with another compression, and other tensor bytes."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, held in records.items():
            archive.writestr(name, held if data is None or "/data/" not in name else data)


def test_compressed_records_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    state = {"format": FORMAT, "model": nn.Linear(2, 2).state_dict()}
    torch.save(state, path)
    assert load_checkpoint(path)["format"] == FORMAT
    rewritten(path, zipfile.ZIP_DEFLATED)
    for load in (lambda: load_weights(nn.Linear(2, 2), path), lambda: load_checkpoint(path)):
        with pytest.raises(CheckpointError, match="is compressed, which torch never does"):
            load()


def test_records_that_claim_more_than_the_file_has(tmp_path: Path) -> None:
    """The size in the archive's directory is what torch would allocate."""
    path = tmp_path / "best.pt"
    torch.save({"format": FORMAT, "model": {"w": torch.zeros(1000)}}, path)
    with zipfile.ZipFile(path) as archive:
        (info,) = (i for i in archive.infolist() if "/data/0" in i.filename)
    data = bytearray(path.read_bytes())
    place = data.rindex(info.filename.encode()) - 46  # The directory's entry before the name.
    assert data[place : place + 4] == b"PK\x01\x02"
    for field in (20, 24):
        data[place + field : place + field + 4] = (2**31).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"records claim \d{10} bytes|readable"):
        load_checkpoint(path)


READER = """
import json, resource, sys
from pathlib import Path
from torch import nn
from geocache.errors import GeocacheError
from geocache.models import load_weights
from geocache.student_train.checkpoint import load_checkpoint
pages = int(Path("/proc/self/statm").read_text().split()[0])
most = pages * resource.getpagesize() + 2**28
resource.setrlimit(resource.RLIMIT_AS, (most, most))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
said = []
for name in sys.argv[1:]:
    for load in (lambda: load_weights(nn.Linear(2, 2), name), lambda: load_checkpoint(Path(name))):
        try:
            load()
            said.append("loaded")
        except GeocacheError as error:
            said.append(type(error).__name__)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
print(json.dumps({"said": said, "grown_mb": grown}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_bombs_are_refused_within_256_mb(tmp_path: Path) -> None:
    """A record of a gigabyte of zeros in a megabyte, and a storage that claims 40 GB."""
    bomb, claims = tmp_path / "bomb.pt", tmp_path / "claims.pt"
    torch.save({"format": FORMAT, "model": {"w": torch.zeros(4)}}, bomb)
    rewritten(bomb, zipfile.ZIP_DEFLATED, bytes(2**30))
    by_old_torch(claims, {"format": FORMAT, "model": {"w": torch.zeros(12345)}})
    data = claims.read_bytes()
    assert data.count(b"M90") >= 1  # 12345 as a pickled short number.
    claims.write_bytes(data.replace(b"M90", b"J" + (10**9).to_bytes(4, "little")))
    child = subprocess.run(
        [sys.executable, "-c", READER, str(bomb), str(claims)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-2000:]
    result = json.loads(child.stdout)
    assert result["said"] == ["CheckpointError"] * 4
    assert result["grown_mb"] < 256


def test_a_tensor_that_repeats_itself_does_not_fit(tmp_path: Path) -> None:
    """One stored number can be shown as a trillion: it is compared by shape, never copied."""
    path = tmp_path / "wide.pt"
    wide = torch.zeros(1).expand(10**12)
    torch.save({"weight": wide, "bias": torch.zeros(2)}, path)
    assert path.stat().st_size < 10_000
    with pytest.raises(CheckpointError, match=r"1 wrong shape: weight \(1000000000000,\)"):
        load_weights(nn.Linear(2, 2), path)


@pytest.mark.parametrize(
    "state",
    [
        [],
        {"format": FORMAT},
        {"format": torch.zeros(3), "model": {}},
        {"format": str(FORMAT), "model": {}},
        {"format": FORMAT, "model": [1]},
        {"format": FORMAT, "model": {"w": "text"}},
    ],
)
def test_what_no_run_wrote(tmp_path: Path, state: Any) -> None:
    torch.save(state, tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match="must come from `geocache train`"):
        load_checkpoint(tmp_path / "best.pt")


@pytest.mark.parametrize("recipe", [None, "", "{", "[]", '{"student": 3}', 7])
def test_a_run_whose_recipe_is_none(tmp_path: Path, recipe: Any) -> None:
    state = {"format": FORMAT, "model": {}, "classes": ["a"], "input_shape": [3, 8, 8]}
    torch.save(state | ({} if recipe is None else {"recipe": recipe}), tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match="must hold a student and its recipe") as found:
        load_student(tmp_path)
    assert "\n" not in str(found.value)
