"""One epoch over the batches: forward, terms, backward, step, and a look at the losses."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from geocache.errors import NumericError
from geocache.models import Taps
from geocache.student_train.order import batch_bounds, mix
from geocache.student_train.progress import Progress
from geocache.student_train.recipe import TrainTable
from geocache.student_train.schedules import step_decay
from geocache.student_train.setup import Setup
from geocache.student_train.stream import Batch
from geocache.student_train.terms import student_layers

__all__ = ["one_epoch"]

# A look at a loss on a GPU waits for it, so there it happens only every so many steps.
_LOOK_EVERY = 16


def one_epoch(
    table: TrainTable,
    setup: Setup,
    optimizer: torch.optim.Optimizer,
    term_weights: Mapping[str, float],
    *,
    epoch: int,
    progress: Progress,
) -> dict[str, Any]:
    """Train the epoch (counted from 0) and return its record for the log.

    Raises NumericError, naming the terms, when a loss is no longer finite.
    """
    device = setup.device
    lr = step_decay(table.lr, epoch=epoch, milestones=table.milestones, gamma=table.gamma)
    for group in optimizer.param_groups:
        group["lr"] = lr
    # Dropout's stream too is a function of (seed, epoch): nothing of it needs saving.
    torch.manual_seed(mix(table.seed, epoch))
    setup.student.train()
    weights = [term_weights[term.label] * term.schedule.factor(epoch) for term in setup.terms]
    sums = torch.zeros(len(setup.terms), dtype=torch.float64, device=device)
    n_correct = torch.zeros((), dtype=torch.int64, device=device)
    n_labelled = torch.zeros((), dtype=torch.int64, device=device)
    look_every = 1 if device.type == "cpu" else _LOOK_EVERY
    n_rows, step = 0, 0
    bounds = batch_bounds(len(setup.loader.rows), setup.loader.batch_size, drop_single=True)
    n_steps = sum(1 for _ in bounds)
    started = time.perf_counter()
    with Taps(setup.student, student_layers(setup.terms)) as taps:
        for step, batch in enumerate(setup.loader.epoch(epoch, drop_single=True), 1):
            logits, values = _step(setup, taps, batch, optimizer, weights)
            sums += values
            n_labelled += (batch.labels >= 0).sum()
            n_correct += (logits.argmax(dim=1) == batch.labels).sum()
            n_rows += len(batch.rows)
            if step % look_every == 0:
                loss = _look(sums, setup, weights, epoch, step)
                progress.stepped(epoch=epoch + 1, step=step, n_steps=n_steps, loss=loss)
    loss = _look(sums, setup, weights, epoch, step)
    _check_weights(setup, epoch)
    elapsed_s = time.perf_counter() - started
    means = (sums / step).tolist()
    return {
        "event": "epoch",
        "epoch": epoch + 1,
        "lr": lr,
        "loss": loss,
        "terms": {term.label: mean for term, mean in zip(setup.terms, means, strict=True)},
        "weights": {term.label: w for term, w in zip(setup.terms, weights, strict=True)},
        "train_accuracy": int(n_correct) / max(int(n_labelled), 1),
        "elapsed_s": elapsed_s,
        "step_s": elapsed_s / step,
        "rows_per_s": n_rows / elapsed_s,
    }


def _step(
    setup: Setup,
    taps: Taps,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    weights: list[float],
) -> tuple[Tensor, Tensor]:
    logits, features = taps(batch.images)
    values = [term.value(logits, features, batch) for term in setup.terms]
    total = torch.stack([w * value for w, value in zip(weights, values, strict=True)]).sum()
    optimizer.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return logits.detach(), torch.stack([value.detach().double() for value in values])


def _look(sums: Tensor, setup: Setup, weights: list[float], epoch: int, step: int) -> float:
    """Return the epoch's mean loss so far; NaN and infinity stay in a sum, so none is missed."""
    means = (sums / step).tolist()
    bad = [
        f"'{term.label}'"
        for term, finite in zip(setup.terms, torch.isfinite(sums).tolist(), strict=True)
        if not finite
    ]
    if bad:
        raise NumericError(
            f"loss term {', '.join(bad)} must stay finite, got NaN or infinity (epoch {epoch + 1}, "
            f"step {step}). Lower train.lr or the term's weight; last.pt holds epoch {epoch}."
        )
    return math.fsum(w * mean for w, mean in zip(weights, means, strict=True))


def _check_weights(setup: Setup, epoch: int) -> None:
    # The last step's gradient may overflow after its loss was fine: do not save such weights.
    for name, value in setup.student.state_dict().items():
        if not bool(torch.isfinite(value).all()):
            raise NumericError(
                f"student weights must stay finite, got NaN or infinity in '{name}' (epoch "
                f"{epoch + 1}). Lower train.lr; last.pt holds epoch {epoch}."
            )
