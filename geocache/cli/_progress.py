"""Show that work goes on: a bar with rate and time left on a terminal, plain lines elsewhere.

Everything goes to stderr, so that results on stdout can be piped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from geocache.student_train import Progress

if TYPE_CHECKING:
    from rich import progress as rich_progress

__all__ = ["Meter", "TrainingMeter"]

_SECONDS_BETWEEN_LINES = 5.0


class Meter:
    """Counts `done` of `total` in named phases; call it, or use it as a context to end the bar."""

    def __init__(self, unit: str = "rows", *, quiet: bool = False) -> None:
        self.unit, self.quiet = unit, quiet
        self._phase, self._first = "", 0
        self._started = self._said = time.monotonic()
        self._bar: rich_progress.Progress | None = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and not self.quiet:
            self._bar = _bar()
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, phase: str, done: int, total: int, unit: str | None = None) -> None:
        """Show that `done` of `total` units of `phase` are done."""
        unit = unit or self.unit
        if phase != self._phase:
            self._begin(phase, done, total, unit)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, unit=unit)
        elif time.monotonic() - self._said >= _SECONDS_BETWEEN_LINES:
            self.say(f"{phase}: {done:,} of {total:,} {unit}{self._rate(done, total)}")

    def say(self, text: str) -> None:
        """Print a line of its own above the bar."""
        if self.quiet:
            return
        self._said = time.monotonic()
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            click.echo(text, err=True)

    def _begin(self, phase: str, done: int, total: int, unit: str) -> None:
        self._phase, self._first, self._started = phase, done, time.monotonic()
        if self._bar is not None:
            self._task = self._bar.add_task(phase, total=total, unit=unit)

    def _rate(self, done: int, total: int) -> str:
        elapsed_s = time.monotonic() - self._started
        if done <= self._first or elapsed_s <= 0:
            return ""
        rate = (done - self._first) / elapsed_s
        return f" ({rate:,.0f}/s, {(total - done) / rate:.0f} s left)"


def _bar() -> rich_progress.Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: rich_progress.Task) -> Text:
            return Text(f"{task.speed:,.0f}/s" if task.speed else "")

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        Rate(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


class TrainingMeter(Progress):
    """Shows a training: the terms at the start, a bar over all steps, a line an epoch."""

    def __init__(self, meter: Meter, *, label: str = "training", brief: bool = False) -> None:
        self.meter, self.label, self.brief = meter, label, brief
        self.n_epochs = self.epochs_done = 0
        self._first = 1
        self._said = 0.0
        self._rates: Mapping[str, float] = {}

    def started(self, record: Mapping[str, Any]) -> None:
        """Say what is trained on what, and how large each term is."""
        self.n_epochs, self._first = record["epochs"], record["first_epoch"]
        self.epochs_done = self._first - 1
        if self.brief:
            return
        self.meter.say(
            f"{record['student']}: {record['n_parameters']:,} parameters, "
            f"{record['n_train']:,} rows to train on, {record['n_validation']:,} held out, "
            f"on {record['device']}"
        )
        for label, term in record["terms"].items():
            self.meter.say(
                f"  {label}: {term['size']:.4g} at the start, weight {term['weight']:.4g}, "
                f"together {term['weighted']:.4g}"
            )

    def measured(self, rates: Mapping[str, float]) -> None:
        """Keep them for the bar."""
        self._rates = rates

    def stepped(self, *, epoch: int, step: int, n_steps: int, loss: float) -> None:
        """Move the bar, and show how the epoch goes."""
        done = (epoch - self._first) * n_steps + step
        unit = f"steps, loss {loss:.4f}"
        if "train_accuracy" in self._rates:
            unit += f", train {100 * self._rates['train_accuracy']:.2f} %"
        if self._rates:
            unit += f", {_speed(self._rates)}"
        self.meter(self.label, done, (self.n_epochs - self._first + 1) * n_steps, unit)

    def epoch_done(self, record: Mapping[str, Any]) -> None:
        """Print the epoch's figures, not more often than every few seconds, and the last one's."""
        self.epochs_done = record["epoch"]
        last = record["epoch"] == self.n_epochs
        if self.brief or not (last or time.monotonic() - self._said >= _SECONDS_BETWEEN_LINES):
            return
        self._said = time.monotonic()
        accuracies = "".join(
            f", {split} {100 * record[f'{split}_accuracy']:.2f} %"
            for split in ("train", "validation", "test")
            if f"{split}_accuracy" in record
        )
        self.meter.say(
            f"epoch {record['epoch']}/{self.n_epochs}: loss {record['loss']:.4f}{accuracies} "
            f"({1000 * record['step_s']:.1f} ms a step, {_speed(record)})"
        )


def _speed(rates: Mapping[str, float]) -> str:
    wait = 100 * rates["data_wait"]
    return f"{rates['rows_per_s']:,.0f} rows/s, {wait:.1f} % waiting for data"
