"""Builds of tiny worlds, and imports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worlds import TARGETS, images, parse

from geocache.pipeline.build import BuildReport, BuildRequest, build
from geocache.pipeline.imports import ImportReport, ImportRequest, import_targets


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., BuildReport]:
    """Build a tiny cache in `tmp_path / store`: serially, one thread, 300 images, TARGETS."""

    def make(store: str = "store", **changes: Any) -> BuildReport:
        data = changes.pop("data", {})
        progress = changes.pop("progress", None)
        fields: dict[str, Any] = {
            "dataset": images(**data),
            "model": "tiny_world:teacher",
            "targets": parse(*TARGETS),
            "store": tmp_path / store,
            "executor": "serial",
            "n_threads": 1,
            **changes,
        }
        return build(BuildRequest(**fields), progress)

    return make


@pytest.fixture
def imported(tmp_path: Path) -> Callable[..., ImportReport]:
    """Import an array as targets; by default of a new cache over the tiny images."""

    def imported(
        array: np.ndarray[Any, Any], *targets: str, progress: Any = None, **changes: Any
    ) -> ImportReport:
        fields: dict[str, Any] = {"store": tmp_path / "imports", "name": "mine.npy", **changes}
        if "cache" not in fields:
            fields.setdefault("dataset", images())
        request = ImportRequest(array=array, targets=parse(*targets), **fields)
        return import_targets(request, progress)

    return imported
