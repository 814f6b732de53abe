"""What tests of builds say in short, and how they look at every byte of a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from geocache.data.cache import Cache
from geocache.data.datasets import open_dataset
from geocache.data.usage import STAMP
from geocache.pipeline.build import BuildReport
from geocache.targets import LayerTarget, parse_target

TARGETS = ("logits", "mst@stage1", "affinity:radius=2,5@stage1", "pooled@stage2")


def parse(*texts: str) -> tuple[LayerTarget, ...]:
    return tuple(found for text in texts for found in parse_target(text))


def images(**options: Any) -> Any:
    return open_dataset("tiny_world:images", options=options)


def contents(report_or_path: BuildReport | Path) -> dict[str, bytes]:
    """Every file of a cache by its name, but for the stamp that says when it was last used."""
    path = report_or_path if isinstance(report_or_path, Path) else report_or_path.path
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file != path / STAMP
    }


def stamps(report: BuildReport) -> dict[str, tuple[int, int]]:
    """When every file of a cache was written, and as which file."""
    return {
        file.relative_to(report.path).as_posix(): (file.stat().st_mtime_ns, file.stat().st_ino)
        for file in report.path.rglob("*")
        if file.is_file()
    }


def opened(report: BuildReport) -> Cache:
    return Cache(report.path)


def knowing(labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Logits that are right about two thirds of the time."""
    rng = np.random.default_rng(1)
    return (np.eye(3)[labels] + rng.normal(0, 0.6, (len(labels), 3))).astype(np.float32)
