"""One epoch over the batches: forward, terms, backward, step, and a look at the losses.

An epoch can be left after any step of the optimiser and taken up there again: its order is a
function of its number, and what else it has come to is the `Tally`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from geocache.errors import NumericError
from geocache.student_train.devices import ONE, Ranks
from geocache.student_train.forward import Forward
from geocache.student_train.optimise import Optimisation
from geocache.student_train.order import mix
from geocache.student_train.progress import Progress
from geocache.student_train.setup import Setup
from geocache.student_train.stream import Batch
from geocache.student_train.terms import Term, student_layers
from geocache.student_train.train_table import TrainTable

__all__ = ["Tally", "one_epoch"]

# A look at a loss on a GPU waits for it, so there it happens only every so many steps.
_LOOK_EVERY = 16


@dataclass
class Tally:
    """What the batches of an epoch have added up to so far.

    `sums` are the terms' values; `wait_s` is the part of `elapsed_s` spent waiting for batches.
    """

    step: int = 0
    sums: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    n_correct: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    n_labelled: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    n_rows: int = 0
    elapsed_s: float = 0.0
    wait_s: float = 0.0
    random: tuple[Tensor, ...] = ()
    """States of torch's generators, the CPU's and the device's."""

    @classmethod
    def start(cls, n_terms: int, device: torch.device) -> Tally:
        """Return one of nothing."""
        sums = torch.zeros(n_terms, dtype=torch.float64, device=device)
        zero = torch.zeros((), dtype=torch.int64, device=device)
        return cls(sums=sums, n_correct=zero, n_labelled=zero.clone())

    @classmethod
    def load(cls, saved: Mapping[str, Any], device: torch.device) -> Tally:
        """Return one that was saved, and put torch's generators back to where they were."""
        tally = cls(**saved)
        for name in ("sums", "n_correct", "n_labelled"):
            setattr(tally, name, getattr(tally, name).to(device))
        torch.set_rng_state(tally.random[0])
        if device.type == "cuda" and len(tally.random) > 1:
            torch.cuda.set_rng_state(tally.random[1], device)
        return tally

    def state(self, device: torch.device) -> dict[str, Any]:
        """Return what a checkpoint holds: tensors on the CPU and numbers."""
        states = [torch.get_rng_state()]
        if device.type == "cuda":
            states.append(torch.cuda.get_rng_state(device))
        self.random = tuple(states)
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {n: v.cpu() if isinstance(v, Tensor) else v for n, v in values.items()}


def one_epoch(
    table: TrainTable,
    setup: Setup,
    optimisation: Optimisation,
    term_weights: Mapping[str, float],
    *,
    epoch: int,
    progress: Progress,
    ranks: Ranks = ONE,
    position: Mapping[str, Any] | None = None,
    save: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train the epoch (counted from 0) and return its record for the log.

    position: what `save` was given, to go on from there. save: called within the epoch at the
    first optimiser step after every `table.save_every` batches. Raises NumericError, naming the
    terms, when a loss is no longer finite.
    """
    device, terms = setup.device, setup.terms
    # Dropout's stream too is a function of (seed, epoch): nothing of it needs saving between them.
    torch.manual_seed(mix(table.seed, epoch) if ranks.rank == 0 else mix(ranks.rank, epoch))
    setup.student.train()
    weights = [term_weights[term.label] * term.schedule.factor(epoch) for term in terms]
    tally = Tally.load(position, device) if position else Tally.start(len(terms), device)
    look_every = 1 if device.type == "cpu" else _LOOK_EVERY
    saved_at = tally.step
    before_s, started = tally.elapsed_s, time.perf_counter()
    n_batches = len(optimisation.sizes)
    batches = setup.loader.epoch(epoch, drop_single=True, start_batch=tally.step)
    with (
        closing(batches),
        Forward(table, setup.student, student_layers(terms)) as forward,
    ):
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            tally.wait_s += time.perf_counter() - asked
            if batch is None:
                break
            logits, features = forward(batch.images)
            values = [term.value(logits, features, batch) for term in terms]
            total = torch.stack([w * value for w, value in zip(weights, values, strict=True)]).sum()
            optimisation.learn(total, len(batch.rows), epoch=epoch, batch=tally.step)
            share = len(batch.rows) * ranks.size / optimisation.sizes[tally.step]
            _count(tally, values, logits.detach(), batch, share)
            tally.elapsed_s = before_s + time.perf_counter() - started
            if tally.step % look_every == 0:
                loss = _look(tally, terms, weights, epoch)
                progress.measured(_rates(tally))
                progress.stepped(epoch=epoch + 1, step=tally.step, n_steps=n_batches, loss=loss)
            due = table.save_every and tally.step - saved_at >= table.save_every
            if due and save and tally.step < n_batches and optimisation.ends_step(tally.step - 1):
                _look(tally, terms, weights, epoch)
                _check_weights(setup, epoch)
                save(tally.state(device))
                saved_at = tally.step
    tally.elapsed_s = before_s + time.perf_counter() - started
    tally = _together(tally, ranks)
    loss = _look(tally, terms, weights, epoch)
    _check_weights(setup, epoch)
    means = (tally.sums / tally.step).tolist()
    return {
        "event": "epoch",
        "epoch": epoch + 1,
        "lr": optimisation.optimizer.param_groups[0]["lr"],
        "loss": loss,
        "terms": {term.label: mean for term, mean in zip(terms, means, strict=True)},
        "weights": {term.label: w for term, w in zip(terms, weights, strict=True)},
        **_rates(tally),
        "elapsed_s": tally.elapsed_s,
        "step_s": tally.elapsed_s / tally.step,
    }


def _count(
    tally: Tally, values: Sequence[Tensor], logits: Tensor, batch: Batch, share: float
) -> None:
    """Count a batch; `share` is its rows here over an even share of them, 1 on one device."""
    tally.step += 1
    tally.sums += share * torch.stack([value.detach().double() for value in values])
    if batch.labels.ndim == 1:  # own labels are measured on other rows alone
        labels, partners = batch.labels, batch.partners
        if partners is not None:  # the label of the larger part
            labels = torch.where(partners.own_weights < 0.5, partners.labels, labels)
        tally.n_labelled += (labels >= 0).sum()
        tally.n_correct += (logits.argmax(dim=1) == labels).sum()
    tally.n_rows += len(batch.rows)


def _rates(tally: Tally) -> dict[str, float]:
    """Return accuracy, rows a second and the part of the time that was waiting, in [0, 1]."""
    n_labelled = int(tally.n_labelled)
    accuracy = {"train_accuracy": int(tally.n_correct) / n_labelled} if n_labelled else {}
    return {
        **accuracy,
        "rows_per_s": tally.n_rows / tally.elapsed_s,
        "data_wait": tally.wait_s / tally.elapsed_s,
    }


def _together(tally: Tally, ranks: Ranks) -> Tally:
    """Return the tally of all ranks; terms are means over the rows of all."""
    if ranks.size == 1:
        return tally
    ours = torch.stack(
        [tally.n_correct, tally.n_labelled, torch.full_like(tally.n_correct, tally.n_rows)]
    )
    n_correct, n_labelled, n_rows = ranks.sum(ours)
    sums = ranks.sum(tally.sums) / ranks.size
    return Tally(
        tally.step, sums, n_correct, n_labelled, int(n_rows), tally.elapsed_s, tally.wait_s
    )


def _look(tally: Tally, terms: Sequence[Term], weights: list[float], epoch: int) -> float:
    """Return the epoch's mean loss so far; NaN and infinity stay in a sum, so none is missed."""
    means = (tally.sums / tally.step).tolist()
    bad = [
        f"'{term.label}'"
        for term, finite in zip(terms, torch.isfinite(tally.sums).tolist(), strict=True)
        if not finite
    ]
    if bad:
        raise NumericError(
            f"loss term {', '.join(bad)} must stay finite, got NaN or infinity (epoch {epoch + 1}, "
            f"step {tally.step}). Lower train.lr or the term's weight; last.pt holds epoch {epoch}."
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
