"""What a training tells whoever watches it; the library itself prints nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Progress"]


class Progress:
    """Receives the events of a training; every method does nothing until overridden.

    The records are those of `metrics.jsonl`. An exception raised here stops the training as
    KeyboardInterrupt does: the last checkpoint stays usable.
    """

    def started(self, record: Mapping[str, Any]) -> None:
        """Training begins: rows, epochs, and each term's size and weight."""

    def stepped(self, *, epoch: int, step: int, n_steps: int, loss: float) -> None:
        """Steps 1..`step` of `n_steps` of `epoch` (from 1) are done; `loss` is the epoch's mean."""

    def measured(self, rates: Mapping[str, float]) -> None:
        """Before `stepped`, of the epoch so far: `train_accuracy`, `rows_per_s`, `data_wait`.

        Without labels there is no accuracy. The last is the part of the time that was spent
        waiting for batches, from 0 to 1.
        """

    def epoch_done(self, record: Mapping[str, Any]) -> None:
        """An epoch is trained, evaluated and saved."""

    def finished(self, record: Mapping[str, Any]) -> None:
        """Training is over: the chosen epoch and its accuracies."""
