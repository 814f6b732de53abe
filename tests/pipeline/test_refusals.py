"""What cannot work is refused before anything is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_world
from worlds import parse, stamps

from geocache.errors import (
    CacheError,
    ConfigError,
    MissingDataError,
    NumericError,
    ShapeError,
    StorageError,
    UnknownNameError,
)
from geocache.pipeline.build import BuildReport

Make = Callable[..., BuildReport]


def test_a_teacher_that_behaves_differently_is_refused(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = make()
    before = stamps(report)
    monkeypatch.setattr(tiny_world, "SHIFT", 0.5)
    with pytest.raises(CacheError, match=r"must reproduce the output.*into another store"):
        make()
    assert stamps(report) == before


def test_what_the_disk_cannot_hold_is_refused_before(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6, 10**5))
    with pytest.raises(StorageError, match=r"hold up to 0 MB more, got 0 MB free.*--limit"):
        make()
    assert not (tmp_path / "store").exists()
    assert make(limit=100).rows_built == 100


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"targets": parse("mst@stage3")}, UnknownNameError, "'stage3'.*Did you mean 'stage"),
        ({"targets": parse("mst@linear")}, ShapeError, "'mst' must be measured on .*grid"),
        ({"targets": parse("knn:k=64@stage1")}, ConfigError, "below the layer's 64 positions"),
        ({"model": "tiny_world:taecher"}, UnknownNameError, "defines.*teacher"),
        ({"model": "resnet21"}, UnknownNameError, "resnet20"),
        ({"weights": "/nowhere.pt"}, MissingDataError, "nowhere.pt"),
        ({"options": {"baias": 1.0}}, ConfigError, "Did you mean 'bias'"),
        ({"options": {"bias": float("nan")}}, NumericError, "finite outputs, got NaN"),
        ({"limit": 0}, ConfigError, "limit must be a whole number from 1 up, got 0"),
        ({"batch_size": -1}, ConfigError, "batch_size must be .* got -1"),
        ({"mean": (0.5,)}, ConfigError, r"three numbers each.*\[0.5\]"),
        ({"std": (0.2, 0.0, 0.2)}, ConfigError, "std above 0"),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    make: Make, tmp_path: Path, change: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(**change)
    assert not (tmp_path / "store").exists()
