"""The whole path in a minute, without network or data set: is a cache worth having?

A teacher learns scikit-learn's digits from all training rows, its cache is built, and one student
learns from few of those rows: with cross-entropy alone, and with affinity contrast and distillation
from the cache. Both start from the same weights and see the same batches. The setting is small on
purpose, so that the teacher knows more than the student's few labels say; it is printed with the
result, and every figure is measured in the run.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geocache.data.cache import Cache
from geocache.data.datasets import open_dataset
from geocache.data.images import ImageSpec
from geocache.data.objects import Address
from geocache.data.summary import describe_cache
from geocache.errors import ConfigError
from geocache.pipeline.build import BuildRequest, build
from geocache.student_train import (
    Progress,
    Recipe,
    TrainResult,
    parse_recipe,
    plot_runs,
    required_targets,
    train,
)
from geocache.targets import target_from_name

__all__ = ["METHODS", "SETTING", "DemoResult", "StudentResult", "run_demo"]

SETTING = {"size": 16, "rows": 200, "epochs": 80, "teacher_epochs": 15, "seeds": 3, "depth": 8}

_PIXELS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
_CROSS_ENTROPY = {"name": "cross_entropy"}
_CONTRAST = {"name": "affinity_contrast", "radius": 5, "share": 0.5}
METHODS: dict[str, list[dict[str, Any]]] = {
    "cross-entropy": [_CROSS_ENTROPY],
    "AC + KD": [
        _CROSS_ENTROPY,
        {**_CONTRAST, "student": "conv2", "teacher": "layer2"},
        {**_CONTRAST, "student": "conv3", "teacher": "layer3"},
        {"name": "distillation", "temperature": 4.0, "share": 0.5},
    ],
}


@dataclass(frozen=True)
class StudentResult:
    """One way to train: accuracy on the test split after the last epoch, by seed; step time."""

    method: str
    accuracies: tuple[float, ...]
    step_s: float

    @property
    def accuracy(self) -> float:
        """The mean over the seeds."""
        return statistics.mean(self.accuracies)


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured, and where it left its files."""

    out: Path
    picture: Path
    cache: Address
    teacher_accuracy: float
    target_bytes_per_row: float
    image_bytes_per_row: float
    students: tuple[StudentResult, ...]


def run_demo(
    out: Path,
    *,
    watch_training: Callable[[str], Progress] = lambda label: Progress(),
    watch_build: Callable[[str, int, int], None] | None = None,
    **changes: int,
) -> DemoResult:
    """Train a teacher, build its cache, train students with and without it; write all to `out`.

    A folder left by an earlier demo is replaced. watch_training gives the watcher of each training.
    changes: other values for keys of SETTING. Raises ConfigError when `out` holds something else,
    or for an unknown key.
    """
    setting = _setting(changes)
    _clear(out)
    data = {"dataset": "digits", "size": setting["size"]}
    teacher = {"model": "resnet_cifar", "options": {"depth": setting["depth"]}}
    common = {"select": "test", "device": "cpu", "momentum": 0.9}
    epochs = setting["teacher_epochs"]
    teacher_recipe = parse_recipe(
        {
            "data": data,
            "student": {**teacher, **_PIXELS},
            "loss": [_CROSS_ENTROPY],
            "train": {
                **common, "epochs": epochs, "batch_size": 64, "lr": 0.1, "weight_decay": 5e-4,
                "milestones": _milestones(epochs),
            },
        }
    )  # fmt: skip
    taught = train(teacher_recipe, None, out / "teacher", progress=watch_training("teacher"))
    weights = (out / "teacher" / "last.pt").absolute()

    def recipe(losses: list[dict[str, Any]], seed: int) -> Recipe:
        return parse_recipe(
            {
                "data": {**data, "limit": setting["rows"]},
                "teacher": {**teacher, **_PIXELS, "weights": str(weights)},
                "student": {"model": "simple_cnn"},
                "loss": losses,
                "train": {
                    **common, "epochs": setting["epochs"], "batch_size": 32, "lr": 0.01,
                    "milestones": _milestones(setting["epochs"]), "seed": seed,
                    # A step of a few milliseconds gains nothing from a second thread.
                    "threads": 1,
                },
            }
        )  # fmt: skip

    cache = _build(recipe(METHODS["AC + KD"], 0), out / "store", watch_build)
    runs: dict[str, list[TrainResult]] = {method: [] for method in METHODS}
    # In turn, so that whatever else the machine does falls on all methods alike.
    for seed in range(setting["seeds"]):
        for method, losses in METHODS.items():
            watch = watch_training(f"{method}, seed {seed}")
            folder = out / f"{_slug(method)}_seed{seed}"
            runs[method].append(train(recipe(losses, seed), cache, folder, progress=watch))
    students = tuple(
        StudentResult(
            method=method,
            accuracies=tuple(run.last_test_accuracy or 0.0 for run in of_method),
            step_s=statistics.median(run.step_s for run in of_method),
        )
        for method, of_method in runs.items()
    )
    first = [of_method[0].out for of_method in runs.values()]
    about = describe_cache(cache)
    return DemoResult(
        out=out,
        picture=plot_runs(first, out / "curves.png", labels=list(METHODS)),
        cache=cache.path,
        teacher_accuracy=taught.last_test_accuracy or 0.0,
        target_bytes_per_row=about["target_bytes_per_row"],
        image_bytes_per_row=about["image_bytes_per_row"],
        students=students,
    )


def _setting(changes: dict[str, int]) -> dict[str, int]:
    if unknown := changes.keys() - SETTING.keys():
        raise ConfigError(f"demo must be changed in {', '.join(SETTING)}, got {unknown}.")
    return {**SETTING, **changes}


def _clear(out: Path) -> None:
    mark = out / "demo.txt"
    if out.exists() and any(out.iterdir()) and not mark.exists():
        raise ConfigError(
            f"out must be an empty folder or that of an earlier demo, got '{out}'. Name another."
        )
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    mark.write_text("Written by `geocache demo`, which replaces this folder.\n", encoding="utf-8")


def _slug(method: str) -> str:
    return method.lower().replace(" + ", "_").replace("-", "_")


def _milestones(epochs: int) -> list[int]:
    return sorted({max(1, epochs // 2), max(1, 3 * epochs // 4)} - {epochs})


def _build(recipe: Recipe, store: Path, watch: Callable[[str, int, int], None] | None) -> Cache:
    teacher = recipe.teacher[0]
    assert teacher.model is not None, "the demo trains its teacher"
    report = build(
        BuildRequest(
            dataset=open_dataset("digits", split="train"),
            evaluation=open_dataset("digits", split="test"),
            model=teacher.model,
            options=teacher.options,
            weights=teacher.weights,
            mean=teacher.mean,
            std=teacher.std,
            image=ImageSpec(recipe.data.image_size()),
            targets=tuple(target_from_name(n) for n in required_targets(recipe)[teacher.name]),
            store=store,
            # A cluster takes longer to start than 1,437 rows take.
            executor="serial",
            device="cpu",
        ),
        watch,
    )
    return Cache(report.path)
