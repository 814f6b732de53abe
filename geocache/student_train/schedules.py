"""Learning rates as pure functions of the epoch: nothing to save, nothing to resume."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["step_decay"]


def step_decay(lr: float, *, epoch: int, milestones: Sequence[int], gamma: float) -> float:
    """Return `lr * gamma^m`, m the number of milestones at or before `epoch` (counted from 0).

    Milestone 40 means: the first 40 epochs run at `lr`, the next at `lr * gamma`.
    """
    return float(lr * gamma ** sum(epoch >= milestone for milestone in milestones))
