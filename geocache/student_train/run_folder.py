"""What stands in the folder of a run, and how a run is taken up again.

Order of writing: the log's line, then `best.pt` if the epoch is the best so far, then `last.pt`.
Whatever a crash leaves, `last.pt` is one whole epoch, and a resumed run writes the rest again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from geocache.errors import ConfigError, StorageError
from geocache.student_train.checkpoint import load_checkpoint, save_checkpoint
from geocache.student_train.metrics import METRICS_FILE, keep_epochs
from geocache.student_train.recipe import Recipe
from geocache.student_train.setup import Setup
from geocache.student_train.terms import Calibration

__all__ = ["RunState", "open_run", "refuse_overwriting", "save_run"]

# What may differ between a run and its continuation without changing what was computed so far.
_FREE_KEYS = ("epochs", "device", "threads")


@dataclass
class RunState:
    """What a run has come to: all that a checkpoint holds beside weights and optimiser."""

    calibration: Calibration
    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_accuracy: float = -1.0
    optimizer: dict[str, Any] = field(default_factory=dict)

    @property
    def n_epochs(self) -> int:
        """Return the number of whole epochs."""
        return len(self.epochs)

    def add(self, record: dict[str, Any], *, select: str) -> None:
        """Add an epoch's record; the best so far is the first with the highest accuracy."""
        self.epochs.append(record)
        accuracy = record.get(f"{select}_accuracy")
        if accuracy is not None and accuracy > self.best_accuracy:
            self.best_epoch, self.best_accuracy = record["epoch"], accuracy

    def record_of(self, epoch: int) -> dict[str, Any]:
        """Return the record of an epoch, counted from 1."""
        return self.epochs[epoch - 1]


def refuse_overwriting(out: Path) -> None:
    """Raise ConfigError when the folder holds a run already."""
    if (out / "last.pt").exists():
        raise ConfigError(
            f"out must be a folder without a run, got '{out}'. Continue that run with "
            "--resume, or name another folder."
        )


def open_run(recipe: Recipe, setup: Setup, out: Path) -> RunState | None:
    """Prepare the folder; load `last.pt`, where there is one, into the student.

    Returns the state of the run that is taken up, None for one that starts from nothing. Raises
    ConfigError when the run there is of another recipe or cache, StorageError for a folder that
    cannot be written.
    """
    if (out / "last.pt").exists():
        return _resumed(recipe, setup, out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "recipe.json").write_text(recipe.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (out / METRICS_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"out must be a folder that can be written, got '{out}': {error.strerror}."
        ) from None
    return None


def _resumed(recipe: Recipe, setup: Setup, out: Path) -> RunState:
    saved = load_checkpoint(out / "last.pt")
    _check_same(recipe, setup, saved, out)
    keep_epochs(out, len(saved["epochs"]))
    (out / "recipe.json").write_text(recipe.model_dump_json(indent=2) + "\n", encoding="utf-8")
    setup.student.load_state_dict(saved["model"])
    setup.adapters.load_state_dict(saved.get("adapters", {}))
    return RunState(
        calibration=Calibration(**saved["calibration"]),
        epochs=saved["epochs"],
        best_epoch=saved["best_epoch"],
        best_accuracy=saved["best_accuracy"],
        optimizer=saved["optimizer"],
    )


def _check_same(recipe: Recipe, setup: Setup, saved: dict[str, Any], out: Path) -> None:
    before, now = json.loads(saved["recipe"]), json.loads(recipe.model_dump_json())
    for key in _FREE_KEYS:
        before["train"].pop(key, None), now["train"].pop(key, None)
    changed = [f"[{table}]" for table in now if before.get(table) != now[table]]
    if changed:
        raise ConfigError(
            f"recipe must be that of the run in '{out}' to resume it, got another "
            f"{', '.join(changed)}. Only train.{', train.'.join(_FREE_KEYS)} may change."
        )
    if saved["cache"] != setup.source.key:
        raise ConfigError(
            f"cache must be that of the run in '{out}' ({saved['cache'][:12]}), got "
            f"{setup.source.key[:12]}. Name another folder for a new run."
        )
    if len(saved["epochs"]) > recipe.train.epochs:
        raise ConfigError(
            f"train.epochs must be at least the {len(saved['epochs'])} that the run in '{out}' has "
            f"done, got {recipe.train.epochs}."
        )


def save_run(
    out: Path, recipe: Recipe, setup: Setup, optimizer: torch.optim.Optimizer, state: RunState
) -> None:
    """Write `best.pt` where the last epoch is the best, then `last.pt`."""
    source = setup.source
    shared = {
        "recipe": recipe.model_dump_json(),
        "cache": source.key,
        "classes": list(source.classes),
        "mean": list(source.mean),
        "std": list(source.std),
        "input_shape": list(setup.loader.image_shape),
        "epoch": state.n_epochs,
        "select": recipe.train.select,
        "best_epoch": state.best_epoch,
        "best_accuracy": state.best_accuracy,
        "model": {name: value.detach().cpu() for name, value in setup.student.state_dict().items()},
        "adapters": {n: value.detach().cpu() for n, value in setup.adapters.state_dict().items()},
    }
    if state.n_epochs > 0 and state.best_epoch == state.n_epochs:
        save_checkpoint(out / "best.pt", shared)
    calibration = state.calibration
    save_checkpoint(
        out / "last.pt",
        {
            **shared,
            "optimizer": optimizer.state_dict(),
            "epochs": state.epochs,
            "calibration": {
                "cross_entropy": calibration.cross_entropy,
                "sizes": calibration.sizes,
                "weights": calibration.weights,
            },
        },
    )
