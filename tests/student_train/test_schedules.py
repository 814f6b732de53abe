"""Learning rates against torch's own schedulers, step by step."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from geocache.student_train.schedules import LearningRate


def _torch_rates(make: Any, n_steps: int, lr: float = 0.2) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch wants optimizer.step() between
        scheduler = make(optimizer)
        rates = []
        for _ in range(n_steps):
            rates.append(optimizer.param_groups[0]["lr"])
            scheduler.step()
    return rates


def _rates(n_steps: int, **options: Any) -> list[float]:
    rate = LearningRate(0.2, 5, n_steps // 5, **options)
    return [rate.at(step) for step in range(n_steps)]


@pytest.mark.parametrize("n_steps", [5, 35])
def test_cosine_is_torchs(n_steps: int) -> None:
    expected = _torch_rates(
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, n_steps, 0.01), n_steps
    )
    assert _rates(n_steps, kind="cosine", lr_min=0.01) == pytest.approx(expected)


@pytest.mark.parametrize(("warmup", "part"), [(0.0, 0.3), (2.0, 0.4)])
def test_one_cycle_is_torchs(warmup: float, part: float) -> None:
    expected = _torch_rates(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(
            o, 0.2, total_steps=35, pct_start=part, cycle_momentum=False
        ),
        35,
    )
    assert _rates(35, kind="one_cycle", warmup_epochs=warmup) == pytest.approx(expected)


def test_one_cycle_of_a_single_step_has_a_rate() -> None:
    assert LearningRate(0.2, 1, 1, "one_cycle").at(0) > 0


def test_step_and_constant_change_between_epochs_alone() -> None:
    stepped = _rates(10, kind="step", milestones=(2, 4), gamma=0.1)
    assert stepped == pytest.approx([0.2] * 4 + [0.02] * 4 + [0.002] * 2)
    assert _rates(10, kind="constant") == [0.2] * 10


@pytest.mark.parametrize("kind", ["step", "constant", "cosine"])
def test_warm_up_rises_linearly_to_the_rate(kind: Any) -> None:
    rates = _rates(20, kind=kind, warmup_epochs=1.0)
    assert rates[:4] == pytest.approx([0.05, 0.1, 0.15, 0.2])
    assert rates[4] == pytest.approx(0.2) and rates[4] >= rates[5]
