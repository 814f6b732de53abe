"""Rates and weights as pure functions of step and epoch: nothing to save, nothing to resume."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["CONSTANT", "LearningRate", "WeightSchedule", "step_decay"]


@dataclass(frozen=True)
class WeightSchedule:
    """How a loss term's weight changes: a factor on it, a function of the epoch (from 0).

    "constant": 1. "exponential": gamma^epoch (InfoFlow eq 10 has gamma 0.7). "step": gamma^m, m the
    number of milestones at or before the epoch. "warmup": rises linearly over `epochs` epochs, from
    1 / epochs to 1.
    """

    kind: Literal["constant", "exponential", "step", "warmup"] = "constant"
    gamma: float = 1.0
    milestones: tuple[int, ...] = ()
    epochs: int = 1

    def factor(self, epoch: int) -> float:
        """Return the factor at an epoch, counted from 0."""
        if self.kind == "exponential":
            return float(self.gamma**epoch)
        if self.kind == "step":
            return step_decay(1.0, epoch=epoch, milestones=self.milestones, gamma=self.gamma)
        if self.kind == "warmup":
            return min(1.0, (epoch + 1) / self.epochs)
        return 1.0


CONSTANT = WeightSchedule()


def step_decay(lr: float, *, epoch: int, milestones: Sequence[int], gamma: float) -> float:
    """Return `lr * gamma^m`, m the number of milestones at or before `epoch` (counted from 0).

    Milestone 40 means: the first 40 epochs run at `lr`, the next at `lr * gamma`.
    """
    return float(lr * gamma ** sum(epoch >= milestone for milestone in milestones))


@dataclass(frozen=True)
class LearningRate:
    """The learning rate of each optimiser step: a pure function of its number, counted from 0.

    With S steps in all, E of them an epoch, and w = `warmup_epochs` E steps of warm-up:
    "constant": `lr`. "step": `lr * gamma^m`, m the milestones (epochs) at or before the step's
    epoch. "cosine": `lr_min + (lr - lr_min) (1 + cos(pi (s - w) / (S - w))) / 2` (SGDR eq 5,
    without restarts). These rise in the warm-up as `lr (s + 1) / w`. "one_cycle": from `lr / 25`
    up to `lr` over w steps, by default 30 % of S, and down to `lr / 25e4`, both along half a
    cosine (Smith and Topin 2018, as `torch.optim.lr_scheduler.OneCycleLR` has it).
    """

    lr: float
    n_epochs: int
    steps_per_epoch: int
    kind: Literal["step", "cosine", "one_cycle", "constant"] = "step"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    lr_min: float = 0.0

    def at(self, step: int) -> float:
        """Return the rate of an optimiser step, counted from 0 over the whole training."""
        total = self.n_epochs * self.steps_per_epoch
        n_warmup = round(self.warmup_epochs * self.steps_per_epoch)
        if self.kind == "one_cycle":
            return self._one_cycle(step, total, n_warmup or 0.3 * total)
        if step < n_warmup:
            return self.lr * (step + 1) / n_warmup
        if self.kind == "cosine":
            return _half_cosine(self.lr, self.lr_min, (step - n_warmup) / (total - n_warmup))
        if self.kind == "step":
            return step_decay(
                self.lr, epoch=step // self.steps_per_epoch, milestones=self.milestones,
                gamma=self.gamma,
            )  # fmt: skip
        return self.lr

    def _one_cycle(self, step: int, total: int, n_rising: float) -> float:
        first, top, last = self.lr / 25, n_rising - 1, total - 1
        if top > 0 and step <= top:
            return _half_cosine(first, self.lr, step / top)
        return _half_cosine(self.lr, first / 1e4, (step - top) / (last - top) if last > top else 1)


def _half_cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2
