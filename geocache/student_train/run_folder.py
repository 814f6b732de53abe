"""What stands in the folder of a run, and how a run is taken up again.

Order of writing: the log's line, then `best.pt` if the epoch is the best so far, then `last.pt`.
Whatever a crash leaves, `last.pt` is one whole epoch, with `train.save_every` one whole epoch and
some steps of the next, and a resumed run writes the rest again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from geocache.errors import ConfigError, StorageError
from geocache.student_train.checkpoint import load_checkpoint, save_checkpoint
from geocache.student_train.metrics import METRICS_FILE, keep_epochs
from geocache.student_train.optimise import Optimisation
from geocache.student_train.recipe import Recipe
from geocache.student_train.setup import Setup
from geocache.student_train.terms import Calibration

__all__ = ["RunState", "open_run", "refuse_overwriting", "save_run"]

# What may differ between a run and its continuation without changing what was computed so far.
_FREE_KEYS = ("epochs", "device", "devices", "threads", "compile", "save_every", "tensorboard")


@dataclass
class RunState:
    """What a run has come to: all that a checkpoint holds beside weights and optimiser."""

    calibration: Calibration
    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_accuracy: float = -math.inf
    """What the best epoch was chosen by; with `select = "loss"` that loss, negative."""
    taken_up: bool = False
    optimisation: dict[str, Any] = field(default_factory=dict)
    """Of a run that is taken up: what its optimiser goes on from."""
    average: dict[str, Any] | None = None
    """The same: its averaged weights."""
    position: dict[str, Any] | None = None
    """The same: where within the epoch after the whole ones it stands."""

    @property
    def n_epochs(self) -> int:
        """Return the number of whole epochs."""
        return len(self.epochs)

    def add(self, record: dict[str, Any], *, select: str) -> None:
        """Add an epoch's record; the best so far is the first with the best figure of `select`."""
        self.epochs.append(record)
        figure = record.get(f"{select}_accuracy", record.get(f"{select}_r2"))
        if select == "loss":
            figure = record.get("validation_total")
        if figure is None:
            return
        figure = -figure if select == "loss" else figure
        if figure > self.best_accuracy:
            self.best_epoch, self.best_accuracy = record["epoch"], figure

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


def open_run(recipe: Recipe, setup: Setup, out: Path, *, writes: bool = True) -> RunState | None:
    """Prepare the folder; load `last.pt`, where there is one, into the student.

    writes: whether this process is the one that writes the run. Returns the state of the run that
    is taken up, None for one that starts from nothing. Raises ConfigError when the run there is of
    another recipe or cache, StorageError for a folder that cannot be written.
    """
    if (out / "last.pt").exists():
        return _resumed(recipe, setup, out, writes=writes)
    if not writes:
        return None
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "recipe.json").write_text(recipe.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (out / METRICS_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"out must be a folder that can be written, got '{out}': {error.strerror}."
        ) from None
    return None


def _resumed(recipe: Recipe, setup: Setup, out: Path, *, writes: bool) -> RunState:
    saved = load_checkpoint(out / "last.pt")
    _check_same(recipe, setup, saved, out)
    if writes:
        keep_epochs(out, len(saved["epochs"]))
        (out / "recipe.json").write_text(recipe.model_dump_json(indent=2) + "\n", encoding="utf-8")
    raw = saved.get("raw_model")
    setup.student.load_state_dict(saved["model"] if raw is None else raw)
    setup.adapters.load_state_dict(saved.get("adapters", {}))
    return RunState(
        calibration=Calibration(**saved["calibration"]),
        epochs=saved["epochs"],
        best_epoch=saved["best_epoch"],
        best_accuracy=saved["best_accuracy"],
        taken_up=True,
        optimisation={name: saved[name] for name in ("optimizer", "scaler") if name in saved},
        average=None if raw is None else saved["model"],
        position=saved.get("position"),
    )


def _check_same(recipe: Recipe, setup: Setup, saved: dict[str, Any], out: Path) -> None:
    # Validated again, so that a run of before a key was there has its default.
    old = Recipe.model_validate_json(saved["recipe"])
    before, now = (json.loads(either.model_dump_json()) for either in (old, recipe))
    free = [key for key in _FREE_KEYS if key != "epochs" or _epochs_are_free(recipe)]
    for key in free:
        before["train"].pop(key, None), now["train"].pop(key, None)
    for key in ("mode", "memory"):  # What follows from them is compared below.
        before["data"].pop(key, None), now["data"].pop(key, None)
    changed = [f"[{table}]" for table in now if before.get(table) != now[table]]
    if changed:
        raise ConfigError(
            f"recipe must be that of the run in '{out}' to resume it, got another "
            f"{', '.join(changed)}. Only train.{', train.'.join(free)} may change."
        )
    if saved["cache"] != setup.source.key:
        raise ConfigError(
            f"cache must be that of the run in '{out}' ({saved['cache'][:12]}), got "
            f"{setup.source.key[:12]}. Name another folder for a new run."
        )
    mode = saved.get("loader_mode", setup.loader.mode)
    if mode != setup.loader.mode:
        raise ConfigError(
            f"rows must be kept as in the run in '{out}' ({mode}), whose order depends on it, got "
            f"{setup.loader.mode}. Resume with data.mode = '{mode}'."
        )
    if len(saved["epochs"]) > recipe.train.epochs:
        raise ConfigError(
            f"train.epochs must be at least the {len(saved['epochs'])} that the run in '{out}' has "
            f"done, got {recipe.train.epochs}."
        )


def _epochs_are_free(recipe: Recipe) -> bool:
    """Return whether the epochs so far would have been the same in a longer training."""
    return recipe.train.lr_schedule in ("step", "constant")


def save_run(
    out: Path,
    recipe: Recipe,
    setup: Setup,
    optimisation: Optimisation,
    state: RunState,
    *,
    position: dict[str, Any] | None = None,
) -> None:
    """Write `best.pt` where the last epoch is the best, then `last.pt`.

    `model` holds the averaged weights where there are any, and `raw_model` those that training
    goes on from. position: where within the next epoch the run stands.
    """
    source = setup.source
    raw, averaged = setup.student.state_dict(), optimisation.averaged()
    shared = {
        "recipe": recipe.model_dump_json(),
        "cache": source.key,
        "loader_mode": setup.loader.mode,
        "classes": list(setup.classes),
        "mean": list(source.mean),
        "std": list(source.std),
        "input_shape": list(setup.loader.image_shape),
        "epoch": state.n_epochs,
        "select": recipe.train.select,
        "best_epoch": state.best_epoch,
        "best_accuracy": state.best_accuracy,
        "model": _on_cpu(raw if averaged is None else averaged),
        "adapters": _on_cpu(setup.adapters.state_dict()),
    }
    if position is None and state.n_epochs > 0 and state.best_epoch == state.n_epochs:
        save_checkpoint(out / "best.pt", shared)
    calibration = state.calibration
    save_checkpoint(
        out / "last.pt",
        {
            **shared,
            **optimisation.state(),
            "raw_model": None if averaged is None else _on_cpu(raw),
            "position": position,
            "epochs": state.epochs,
            "calibration": {
                "cross_entropy": calibration.cross_entropy,
                "sizes": calibration.sizes,
                "weights": calibration.weights,
            },
        },
    )


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in state.items()}
