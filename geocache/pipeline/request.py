"""What a build is asked for, and what it reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from geocache.data.dataset import ImageDataset
from geocache.data.images import ImageSpec
from geocache.data.objects import Address
from geocache.data.views import ViewSet
from geocache.errors import ConfigError
from geocache.targets import LayerTarget

__all__ = ["BuildReport", "BuildRequest", "Failure", "Progress", "check_normalisation"]

Progress = Callable[[str, int, int], None]
"""Called with (phase, done, total)."""


@dataclass(frozen=True)
class BuildRequest:
    """What to build, from what, and how.

    views: which augmented views of each image the teacher answers.
    images: store the pixels; None stores them up to 64 x 64. limit: only the first rows.
    batch_size: images a forward pass; None takes 64 on a CPU, whose caches larger ones overflow
    (ResNet-20 runs 1.4 times faster than at 256), and 512 on a GPU.
    n_threads: torch's threads in each process; results agree bit for bit at equal numbers.
    """

    dataset: ImageDataset
    model: str
    targets: tuple[LayerTarget, ...]
    weights: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    n_classes: int | None = None
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    image: ImageSpec = field(default_factory=ImageSpec)
    evaluation: ImageDataset | None = None
    views: ViewSet = field(default_factory=ViewSet)
    store: str | Path | None = None
    images: bool | None = None
    limit: int | None = None
    executor: Literal["dask", "serial"] = "dask"
    n_workers: int | None = None
    scheduler: str | None = None
    device: str = "auto"
    batch_size: int | None = None
    n_threads: int | None = None
    skip_bad: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Refuse counts below 1 and a normalisation that is not one number a colour."""
        for name in ("limit", "batch_size", "n_workers", "n_threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be a whole number from 1 up, got {value}.")
        check_normalisation(self.mean, self.std)


def check_normalisation(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Raise ConfigError unless mean and std are one number a colour, and std above 0."""
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ConfigError(
            "mean and std must be three numbers each, for red, green and blue, and std above "
            f"0, got mean {list(mean)} and std {list(std)}. Set them in [teacher]."
        )


@dataclass(frozen=True)
class Failure:
    """Rows that could not be built, and why."""

    view: int
    start: int
    stop: int
    reason: str


@dataclass(frozen=True)
class BuildReport:
    """What a build found and did."""

    key: str
    path: Address
    n_rows: int
    n_asked: int
    n_units: int
    n_bytes_planned: int
    from_teacher: tuple[str, ...] = ()
    """Missing targets that the teacher has to run for."""
    derived: tuple[str, ...] = ()
    """Missing targets that follow from stored ones."""
    n_bytes_written: int = 0
    rows_built: int = 0
    elapsed_s: float = 0.0
    failures: tuple[Failure, ...] = ()
    bad: Mapping[int, str] = field(default_factory=dict)
