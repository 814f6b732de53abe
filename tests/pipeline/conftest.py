"""Builds of tiny worlds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from worlds import TARGETS, images, parse

from geocache.pipeline.build import BuildReport, BuildRequest, build


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
