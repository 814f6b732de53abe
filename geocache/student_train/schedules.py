"""Learning rates as pure functions of the epoch: nothing to save, nothing to resume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["CONSTANT", "WeightSchedule", "step_decay"]


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
