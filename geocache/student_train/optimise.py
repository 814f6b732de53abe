"""From gradients to weights: optimiser, its rate at each step, clipping, scaling, averaging.

Batches are gathered into one step of the optimiser by `accumulate`; each weighs its rows among the
step's, so that losses that are means over rows give the step of the larger batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from geocache.student_train.devices import Ranks
from geocache.student_train.ema import WeightAverage
from geocache.student_train.schedules import LearningRate
from geocache.student_train.train_table import TrainTable

__all__ = ["Optimisation"]


class Optimisation:
    """The optimiser of a student and its adapters, with all that the table asks of a step.

    sizes: rows of each batch of an epoch, over all ranks.
    """

    def __init__(
        self, table: TrainTable, student: nn.Module, adapters: nn.Module, *, sizes: list[int],
        ranks: Ranks,
    ) -> None:  # fmt: skip
        self._table, self._ranks, self.sizes = table, ranks, sizes
        self._parameters = [*student.parameters(), *adapters.parameters()]
        self.optimizer = _optimizer(table, self._parameters)
        self._scaler = torch.amp.GradScaler("cuda", enabled=table.precision == "fp16")
        self.average = None if table.ema is None else WeightAverage(student, table.ema)
        self.steps_per_epoch = -(-len(sizes) // table.accumulate)
        self.rate = LearningRate(
            table.lr, table.epochs, self.steps_per_epoch, table.lr_schedule, table.milestones,
            table.gamma, table.warmup_epochs, table.lr_min,
        )  # fmt: skip

    def ends_step(self, batch: int) -> bool:
        """Return whether the optimiser steps after a batch of the epoch, counted from 0."""
        return (batch + 1) % self._table.accumulate == 0 or batch + 1 == len(self.sizes)

    def learn(self, total: Tensor, n_rows: int, *, epoch: int, batch: int) -> None:
        """Take in the loss of one batch (from 0) with `n_rows` rows here; step where one is due."""
        first = batch - batch % self._table.accumulate
        n_of_step = sum(self.sizes[first : first + self._table.accumulate])
        if n_rows != n_of_step:
            total = total * (n_rows / n_of_step)
        if batch == first:
            self.optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        if self.ends_step(batch):
            self._step(epoch * self.steps_per_epoch + batch // self._table.accumulate)

    def _step(self, step: int) -> None:
        self._ranks.sum_gradients(self._parameters)
        if self._table.clip_norm is not None:
            self._scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self._parameters, self._table.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate.at(step)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        if self.average is not None:
            self.average.update(step + 1)

    def averaged(self) -> Mapping[str, Tensor] | None:
        """Return the averaged weights, None where none are kept."""
        return None if self.average is None else self.average.values

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of it, beside the weights and their average."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self._scaler.state_dict()}

    def load(self, state: Mapping[str, Any], averaged: Mapping[str, Tensor] | None) -> None:
        """Go on from a saved state and average; the student has its weights already."""
        if self.average is not None and averaged is not None:
            self.average.load(averaged)
        self.optimizer.load_state_dict(state["optimizer"])
        if state.get("scaler"):
            self._scaler.load_state_dict(state["scaler"])


def _optimizer(table: TrainTable, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if table.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=table.lr, weight_decay=table.weight_decay)
    return torch.optim.SGD(
        parameters, lr=table.lr, momentum=table.momentum, nesterov=table.nesterov,
        weight_decay=table.weight_decay,
    )  # fmt: skip
