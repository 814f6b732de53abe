"""Train a student from a cache: no teacher, no Python over samples, and resumable to the bit.

Whatever an epoch depends on is a pure function of the recipe and the epoch's number (row order,
learning rate, random seed) or stands in the checkpoint (weights, optimiser, calibrated term
weights). So a training that was killed and resumed ends with the weights of one that was not, and
recipes that differ only in their losses start alike and see the same batches.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from geocache.student_train.devices import Ranks, open_ranks
from geocache.student_train.epoch import one_epoch
from geocache.student_train.examine import Examiner
from geocache.student_train.optimise import Optimisation
from geocache.student_train.progress import Progress
from geocache.student_train.recipe import Recipe
from geocache.student_train.report import plot_runs
from geocache.student_train.run_folder import (
    RunState,
    open_run,
    refuse_overwriting,
    save_run,
)
from geocache.student_train.run_log import RunLog
from geocache.student_train.setup import Setup, choose_device, prepare, torch_settings
from geocache.student_train.source import Source
from geocache.student_train.terms import calibrate

__all__ = ["TrainResult", "train"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What a training came to; accuracies in [0, 1], None where there was nothing to measure.

    `best_epoch` (from 1) was chosen by `select`; `test_accuracy` is that epoch's on the evaluation
    split and `last_test_accuracy` the final one's. `class_accuracy` (by class) and `top5_accuracy`
    (with more than 5 classes) are that epoch's, too, where there is no such split on the validation
    rows. `step_s` is the median over epochs of the mean
    seconds a step, evaluation excluded.
    """

    out: Path
    n_epochs: int
    select: str
    best_epoch: int
    validation_accuracy: float | None
    test_accuracy: float | None
    last_test_accuracy: float | None
    n_parameters: int
    step_s: float
    term_sizes: Mapping[str, float]
    term_weights: Mapping[str, float]
    top5_accuracy: float | None = None
    class_accuracy: Mapping[str, float | None] = field(default_factory=dict)


def train(
    recipe: Recipe,
    sources: Source | Mapping[str, Source] | None,
    out: str | Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> TrainResult:
    """Train the recipe's student and write the run to the folder `out`.

    `sources` is the teacher's cache, or caches by the teacher's name; None reads the data set
    itself, for a recipe without a teacher. The run holds `best.pt`, `last.pt`, `metrics.jsonl`,
    `metrics.csv`, `recipe.json`, `confusion.csv` and `curves.png`. With `resume` it continues from
    `last.pt` where there is one: on a CPU the final weights are those of an uninterrupted run.

    Raises, before the first step, ConfigError for a folder that holds a run or a recipe that does
    not fit it, MissingTargetError (with the command that builds it), ShapeError for layers or
    classes that do not match, UnknownNameError for a layer; later NumericError, naming the term,
    when a loss is no longer finite, and StorageError when the disk is full. After any of these, and
    after KeyboardInterrupt, `last.pt` holds the last whole epoch.
    """
    out = Path(out)
    progress = progress or Progress()
    table = recipe.train
    if not resume:
        refuse_overwriting(out)
    with (
        torch_settings(table),
        open_ranks(table, choose_device(table.device)) as (ranks, device),
    ):
        if not ranks.writes:
            progress = Progress()
        setup = prepare(recipe, sources, device=device, ranks=ranks)
        sizes = setup.loader.batch_sizes(drop_single=True)
        optimisation = Optimisation(table, setup.student, setup.adapters, sizes=sizes, ranks=ranks)
        state = _begin(recipe, setup, optimisation, out, ranks)
        start = _start_record(recipe, setup, state)
        examiner = Examiner(setup)
        with RunLog(out, table, last_epoch=state.n_epochs, writes=ranks.writes) as log:
            if not state.taken_up:
                log.append(start)
                if ranks.writes:
                    save_run(out, recipe, setup, optimisation, state)
                _log.info("sizes and weights: %s", start["terms"])
            progress.started(start)
            for epoch in range(state.n_epochs, table.epochs):
                record = one_epoch(
                    table, setup, optimisation, state.calibration.weights,
                    epoch=epoch, progress=progress, ranks=ranks, position=state.position,
                    save=partial(_save_within, out, recipe, setup, optimisation, state),
                )  # fmt: skip
                state.position = None
                last = epoch + 1 == table.epochs
                if ranks.writes and (last or (epoch + 1) % table.eval_every == 0):
                    record |= examiner.figures(state.calibration.weights, optimisation.averaged())
                state.add(record, select=table.select)
                log.append(record)
                if ranks.writes:
                    save_run(out, recipe, setup, optimisation, state)
                progress.epoch_done(record)
            details = examiner.details(out) if ranks.writes else {}
            result = _result(recipe, setup, state, out, details)
            log.append(_end_record(result))
        if ranks.writes:
            plot_runs([out], out / "curves.png")
        progress.finished(_end_record(result))
    return result


def _begin(
    recipe: Recipe, setup: Setup, optimisation: Optimisation, out: Path, ranks: Ranks
) -> RunState:
    """Take the run in `out` up, or calibrate a new one."""
    state = open_run(recipe, setup, out, writes=ranks.writes)
    ranks.barrier()  # the others look for a run before the first writes one
    if state is not None:
        optimisation.load(state.optimisation, state.average)
        return state
    calibration = calibrate(setup.terms, setup.student, setup.loader, table=recipe.train)
    return RunState(calibration=calibration)


def _save_within(
    out: Path, recipe: Recipe, setup: Setup, optimisation: Optimisation, state: RunState,
    position: dict[str, Any],
) -> None:  # fmt: skip
    save_run(out, recipe, setup, optimisation, state, position=position)


def _start_record(recipe: Recipe, setup: Setup, state: RunState) -> dict[str, Any]:
    calibration = state.calibration
    terms = {
        label: {
            "size": size,
            "weight": calibration.weights[label],
            "weighted": size * calibration.weights[label],
        }
        for label, size in calibration.sizes.items()
    }
    return {
        "event": "start",
        "student": recipe.student.model,
        "n_parameters": sum(p.numel() for p in setup.student.parameters()),
        "cache": setup.source.key,
        "fraction": recipe.data.fraction,
        "subset_seed": None if recipe.data.fraction is None else recipe.data.subset_seed,
        "n_train": len(setup.loader.rows),
        "n_validation": 0 if setup.validation is None else len(setup.validation.rows),
        "n_steps": len(setup.loader.batch_sizes(drop_single=True)),
        "epochs": recipe.train.epochs,
        "first_epoch": state.n_epochs + 1,
        "select": recipe.train.select,
        "device": str(setup.device),
        "cross_entropy": calibration.cross_entropy,
        "terms": terms,
    }


def _result(
    recipe: Recipe, setup: Setup, state: RunState, out: Path, details: dict[str, Any]
) -> TrainResult:
    best, last = state.record_of(state.best_epoch), state.epochs[-1]
    return TrainResult(
        out=out,
        n_epochs=state.n_epochs,
        select=recipe.train.select,
        best_epoch=state.best_epoch,
        validation_accuracy=best.get("validation_accuracy"),
        test_accuracy=best.get("test_accuracy"),
        last_test_accuracy=last.get("test_accuracy"),
        n_parameters=sum(p.numel() for p in setup.student.parameters()),
        step_s=statistics.median(record["step_s"] for record in state.epochs),
        term_sizes=state.calibration.sizes,
        term_weights=state.calibration.weights,
        **details,
    )


def _end_record(result: TrainResult) -> dict[str, Any]:
    """Return the last record of a run's log."""
    names = (
        "n_epochs", "select", "best_epoch", "validation_accuracy", "test_accuracy",
        "last_test_accuracy", "top5_accuracy", "class_accuracy", "n_parameters", "step_s",
    )  # fmt: skip
    return {"event": "end", **{name: getattr(result, name) for name in names}}
