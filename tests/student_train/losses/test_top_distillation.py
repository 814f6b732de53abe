"""Distillation from the largest logits: its reference, its bound, and what may go wrong."""

from __future__ import annotations

import itertools

import numpy as np
import plain_losses
import pytest
import torch
from torch import Tensor

from geocache.errors import ConfigError, ShapeError
from geocache.student_train.losses import build_loss
from geocache.student_train.losses.distillation import Distillation
from geocache.targets import LocalFeatures
from geocache.targets.logits import Logits


def noise(*shape: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def columns(teacher: Tensor, top: int, temperature: float) -> dict[str, Tensor]:
    target = Logits(top=top, temperature=temperature)
    stored = torch.from_numpy(target.compute(LocalFeatures(teacher, "here")))
    return {target.array_name: target.decode(stored)}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 6.0])
@pytest.mark.parametrize("top", [1, 3, 6])
def test_equals_the_reference_and_is_a_lower_bound(top: int, temperature: float) -> None:
    student, teacher = 3 * noise(4, 7, seed=1), 8 * noise(4, 7, seed=2).float()
    loss = Distillation(temperature, top)
    value = float(loss(student=student, target=columns(teacher, top, temperature)))
    plain = teacher.double().numpy()
    expected = plain_losses.merged_distillation(student.numpy(), plain, temperature, top)
    # The mass of the rest is stored in float32.
    assert value == pytest.approx(expected, rel=1e-6)
    full = plain_losses.distillation(student.numpy(), plain, temperature)
    assert value < full + 1e-6 if top < 6 else value == pytest.approx(full, rel=1e-6)
    shifted = float(loss(student=student - 3, target=columns(teacher + 8, top, temperature)))
    assert shifted == pytest.approx(expected, rel=1e-5)


def test_becomes_exact_as_the_rest_loses_its_mass() -> None:
    student, teacher = noise(4, 7, seed=1), noise(4, 7, seed=2).float()
    gaps = []
    for drop in (0.0, 5.0, 10.0, 20.0):
        sunk = teacher.clone()
        sunk[:, 3:] = teacher[:, 3:] - 10 - drop
        value = float(Distillation(1.0, 3)(student=student, target=columns(sunk, 3, 1.0)))
        full = plain_losses.distillation(student.numpy(), sunk.double().numpy(), 1.0)
        gaps.append(full - value)
    assert gaps[0] > 1e-5
    assert all(late < early for early, late in itertools.pairwise(gaps))
    assert abs(gaps[-1]) < 1e-6


def test_at_three_classes_by_hand() -> None:
    # T = 1: p = (1/2 | 1/4 + 1/4), the student's q = (1/4 | 3/4).
    # KL = 1/2 log 2 + 1/2 log(2/3) = 0.143841.
    teacher = torch.log(torch.tensor([[1.0, 2.0, 1.0]]))
    student = torch.log(torch.tensor([[1.0, 1.0, 2.0]]))
    value = Distillation(1.0, 1)(student=student, target=columns(teacher, 1, 1.0))
    assert float(value) == pytest.approx(0.143841, abs=1e-6)


@pytest.mark.parametrize("top", [1, 3])
def test_gradient(top: int) -> None:
    student = noise(3, 5, seed=1).requires_grad_()
    target, loss = columns(4 * noise(3, 5, seed=2), top, 3.0), Distillation(3.0, top)
    assert torch.autograd.gradcheck(lambda s: loss(student=s, target=target), student)


DEGENERATE = {
    "equal": lambda x: torch.zeros_like(x),
    "huge": lambda x: x * 1e4,
    "one dominant": lambda x: x + 1e4 * torch.eye(*x.shape, dtype=x.dtype),
    "one hopeless": lambda x: x - 1e4 * torch.eye(*x.shape, dtype=x.dtype),
    "random": lambda x: x,
}


@pytest.mark.parametrize("teacher", DEGENERATE)
@pytest.mark.parametrize("student", DEGENERATE)
@pytest.mark.parametrize("temperature", [0.25, 4.0])
def test_degenerate_logits_in_float32(teacher: str, student: str, temperature: float) -> None:
    t = DEGENERATE[teacher](noise(4, 6, seed=2)).float()
    s = DEGENERATE[student](noise(4, 6, seed=1)).float().requires_grad_()
    for top in (1, 5):
        value = Distillation(temperature, top)(student=s, target=columns(t, top, temperature))
        (gradient,) = torch.autograd.grad(value, s)
        assert value.dtype == torch.float32 and torch.isfinite(value)
        assert value >= -1e-5 * temperature**2
        assert torch.isfinite(gradient).all()
        # A softmax's gradient moves mass between classes and makes none.
        assert gradient.sum(1).abs().max() < 1e-5


def test_the_order_within_the_rest_is_free() -> None:
    teacher, student = noise(3, 6, seed=2), noise(3, 6, seed=1).requires_grad_()
    target = columns(teacher, 2, 1.0)
    value = Distillation(1.0, 2)(student=student, target=target)
    (gradient,) = torch.autograd.grad(value, student)
    # Within the rest the gradient is one number times the student's own mass.
    mass = torch.softmax(student.detach(), dim=1)
    for g, q, t in zip(gradient, mass, teacher, strict=True):
        rest = torch.argsort(t)[:4]
        ratio = g[rest] / q[rest]
        torch.testing.assert_close(ratio, ratio[:1].expand(4))


def test_names_its_target_and_refuses() -> None:
    assert build_loss("distillation", {"top": 3, "temperature": 4}).targets() == ("logits.top3.t4",)
    assert Distillation(2.5, 8).targets("layer2") == ("logits.top8.t2.5",)
    with pytest.raises(ConfigError, match="top must be a whole number from 1 up, got 0"):
        build_loss("distillation", {"top": 0})
    with pytest.raises(ConfigError, match="at most six digits"):
        build_loss("distillation", {"top": 2, "temperature": 1.23456789})
    target = columns(torch.eye(5), 1, 4.0)
    with pytest.raises(ShapeError, match="got 3 from the student and class 4 among"):
        Distillation(4.0, 1)(student=torch.zeros(5, 3), target=target)
    with pytest.raises(ShapeError, match="got 3 from the student"):
        Distillation(4.0, 3)(student=torch.zeros(5, 3), target=columns(torch.eye(5), 3, 4.0))
