"""A user's file is opened without trusting it."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geocache.errors import DataError, GeocacheError, MissingDataError, UnknownNameError
from geocache.pipeline.array_file import open_array_file

ARRAY = np.arange(12, dtype=np.float32).reshape(4, 3)


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_a_npy_is_mapped(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ARRAY)
    np.save(tmp_path / "l.npy", np.arange(4))
    found = open_array_file(tmp_path / "a.npy", labels=str(tmp_path / "l.npy"))
    assert isinstance(found.array, np.memmap) and not found.array.flags.writeable
    assert np.array_equal(found.array, ARRAY) and found.name == "a.npy"
    assert found.labels is not None and found.labels.tolist() == [0, 1, 2, 3]
    assert found.ids is None


def test_members_of_a_npz_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    ids = np.zeros((4, 32), np.uint8)
    np.savez_compressed(path, features=ARRAY, labels=np.arange(4), sample_id=ids)
    found = open_array_file(path)
    assert np.array_equal(found.array, ARRAY)
    assert found.labels is not None and found.ids is not None and found.ids.shape == (4, 32)
    np.savez(path, one=ARRAY, two=ARRAY + 1, mine=np.arange(4))
    with pytest.raises(DataError, match=r"one, two, mine.*--member"):
        open_array_file(path)
    assert open_array_file(path, member="two", labels="mine").array[0, 0] == 1
    with pytest.raises(UnknownNameError, match=r"'tow'.*Did you mean 'two'"):
        open_array_file(path, member="tow")
    with pytest.raises(UnknownNameError, match="'labels'"):
        open_array_file(path, member="two", labels="labels")


@pytest.mark.parametrize("kind", ["npy", "npz", "pickle"])
def test_pickled_objects_are_refused_and_not_run(tmp_path: Path, kind: str) -> None:
    path, trap = tmp_path / f"a.{kind}", tmp_path / "ran"
    evil = np.array([Evil(trap)], dtype=object)
    if kind == "npy":
        np.save(path, evil, allow_pickle=True)
    elif kind == "npz":
        np.savez(path, features=evil)
    else:
        path.write_bytes(pickle.dumps(Evil(trap)))
    with pytest.raises(DataError) as caught:
        open_array_file(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert not trap.exists()


@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize("keep", [0, 3, 40, 200, 0.5, 0.9])
def test_cut_files_are_refused(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"a.{suffix}"
    big = np.random.default_rng(0).normal(size=(500, 3))
    np.save(path, big) if suffix == "npy" else np.savez_compressed(path, features=big)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else int(keep)])
    with pytest.raises(DataError):
        open_array_file(path)


def test_damaged_members_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, features=np.random.default_rng(0).normal(size=(500, 3)))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="features"):
        open_array_file(path)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"no\.npy"):
        open_array_file(tmp_path / "no.npy")
    for wrong in (lambda: open_array_file(tmp_path), lambda: _labels_of(tmp_path)):
        with pytest.raises(GeocacheError):
            wrong()


def _labels_of(folder: Path) -> None:
    np.save(folder / "a.npy", ARRAY)
    open_array_file(folder / "a.npy", labels=str(folder / "no.npy"))
