"""What every registered loss promises; adding a loss adds it here through `CASES` alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from geocache.errors import GeocacheError
from geocache.geometry import (
    affinity_contrast,
    channel_gram,
    minimum_spanning_tree,
    nearest_neighbours,
    normalised_channels,
    squared_distances,
)
from geocache.student_train.losses import Loss, build_loss, loss_names
from geocache.targets import LocalFeatures
from geocache.targets.logits import Logits

Target = dict[str, Tensor]


def _features(seed: int) -> Tensor:
    return torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(seed))


def _logits(seed: int) -> Tensor:
    return torch.randn(3, 6, generator=torch.Generator().manual_seed(seed))


def _top_logits(teacher: Tensor) -> Target:
    rows = Logits(top=2, temperature=2.5).compute(LocalFeatures(teacher, "here"))
    return {"logits.top2.t2.5": torch.from_numpy(rows)}


def _tree_target(teacher: Tensor) -> Target:
    parents = minimum_spanning_tree(teacher)
    return {"mst": parents, "affinity.r3": affinity_contrast(teacher, parents=parents, radius=3)}


def _list_target(teacher: Tensor) -> Target:
    lists = nearest_neighbours(teacher, 4)
    return {"knn.k4": lists, "affinity.k4": affinity_contrast(teacher, neighbours=lists)}


def _mean_map(teacher: Tensor) -> Target:
    return {"mean_map": normalised_channels(teacher).mean(dim=1)}


def _small_gram(teacher: Tensor) -> Target:
    # A 5x5 student meets it on 4x3.
    return {"gram.g4x3": channel_gram(teacher[:, :, :4, :3])}


def _distances(teacher: Tensor) -> Target:
    rows, columns = torch.triu_indices(25, 25, offset=1)
    delta = squared_distances(teacher)[:, rows, columns]
    return {"mst": minimum_spanning_tree(teacher), "distance": delta}


def _pooled(teacher: Tensor) -> Target:
    return {"pooled": teacher.mean((2, 3))}


def _labels(teacher: Tensor) -> Target:
    return {"labels": torch.arange(len(teacher)) % 2}


@dataclasses.dataclass(frozen=True)
class Case:
    """A loss with options, how to make its student, and how to make a target from a teacher."""

    name: str
    options: dict[str, Any]
    student: Callable[[int], Tensor]
    target: Callable[[Tensor], Target]
    zero_at_identity: bool = True
    row_by_row: bool = True
    """Whether it compares each image with itself, so that a batch's value is a mean of rows."""


CASES = [
    Case("cross_entropy", {}, _logits, lambda t: {"labels": t.argmax(dim=1)}, False),
    Case(
        "cross_entropy", {"label_smoothing": 0.1}, _logits, lambda t: {"labels": t.argmax(1)}, False
    ),
    Case("binary_cross_entropy", {}, _logits, lambda t: {"labels": t.sigmoid()}, False),
    Case("mean_squared_error", {}, _logits, lambda t: {"labels": t}),
    Case("distillation", {"temperature": 3.0}, _logits, lambda t: {"logits": t}),
    Case("distillation", {"temperature": 2.5, "top": 2}, _logits, _top_logits),
    Case("affinity_contrast", {"radius": 3}, _features, _tree_target),
    Case("affinity_contrast", {"k": 4, "reduction": "mean"}, _features, _list_target),
    Case("attention_transfer", {}, _features, lambda t: {"attention": t.square().sum(1)}),
    Case("neuron_selectivity", {}, _features, lambda t: {"gram": channel_gram(t)}),
    Case("neuron_selectivity", {"kernel": "linear"}, _features, _mean_map),
    Case("neuron_selectivity", {"grid": [4, 3]}, _features, _small_gram, False),
    Case("neuron_selectivity", {"kernel": "gaussian"}, _features, lambda t: {"activation": t}),
    Case("neighbouring_pattern", {"radius": 3}, _features, _distances),
    Case("neighbouring_pattern", {}, _features, _distances),
    Case("hint", {}, _features, lambda t: {"activation": t}),
    Case("hint", {"dtype": "int8"}, _features, lambda t: {"activation.int8": t}),
    Case("pkt", {}, _features, _pooled, row_by_row=False),
    Case("hybrid_kernel", {}, _features, lambda t: {"activation": t}, row_by_row=False),
    Case("metric_transfer", {}, _features, _pooled, row_by_row=False),
    Case("contrastive", {}, _features, _labels, zero_at_identity=False, row_by_row=False),
]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}-{case.options}")


def test_every_loss_has_a_case() -> None:
    assert {case.name for case in CASES} == set(loss_names())


@each_case
def test_is_a_frozen_configuration_of_its_targets(case: Case) -> None:
    loss = build_loss(case.name, case.options)
    assert isinstance(loss, Loss)
    assert loss == build_loss(case.name, case.options)
    assert loss.__dataclass_params__.frozen  # type: ignore[attr-defined]
    bare = loss.targets()
    assert set(bare) <= set(case.target(case.student(1)))
    prefix = "layer2/" if loss.needs_layer else ""
    assert loss.targets("layer2") == tuple(prefix + name for name in bare)


@each_case
def test_value_is_a_finite_mean_over_the_batch(case: Case) -> None:
    loss = build_loss(case.name, case.options)
    student, target = case.student(0), case.target(case.student(1))
    value = loss(student=student, target=target)
    assert value.shape == () and value.dtype == torch.float32 and value >= -1e-9
    assert torch.equal(value, loss(student=student, target=target))
    assert loss.row_by_row == case.row_by_row
    if not case.row_by_row:
        return
    rows = [
        loss(student=student[i : i + 1], target={k: v[i : i + 1] for k, v in target.items()})
        for i in range(len(student))
    ]
    torch.testing.assert_close(value, torch.stack(rows).mean())


@each_case
def test_gradient_is_finite_everywhere(case: Case) -> None:
    loss = build_loss(case.name, case.options)
    target = case.target(case.student(1))
    for student in (case.student(0), torch.zeros_like(case.student(0)), 1e4 * case.student(0)):
        student = student.clone().requires_grad_()
        loss(student=student, target=target).backward()
        assert student.grad is not None and torch.isfinite(student.grad).all()


@each_case
def test_zero_where_student_is_teacher(case: Case) -> None:
    if not case.zero_at_identity:
        return
    loss = build_loss(case.name, case.options)
    teacher = case.student(1)
    # The pattern is a norm, not its square, and the rest's mass is summed by others in float64:
    # 1e-7 is float32's rounding there.
    rounds = case.name == "neighbouring_pattern" or "top" in case.options
    value = float(loss(student=teacher, target=case.target(teacher)))
    assert abs(value) < (1e-6 if rounds else 1e-10)


@each_case
def test_half_precision_students_and_targets_are_taken(case: Case) -> None:
    loss = build_loss(case.name, case.options)
    target = case.target(case.student(1))
    value = loss(student=case.student(0).to(torch.bfloat16), target=target)
    exact = loss(student=case.student(0).to(torch.bfloat16).float(), target=target)
    torch.testing.assert_close(value.float(), exact, rtol=1e-6, atol=1e-6)


@each_case
def test_unknown_option_is_refused(case: Case) -> None:
    with pytest.raises(GeocacheError, match="got 'radiu'"):
        build_loss(case.name, {**case.options, "radiu": 1})
