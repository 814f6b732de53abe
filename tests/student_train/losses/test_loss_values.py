"""Each loss against its slow float64 reference, and its gradient against differences."""

from __future__ import annotations

import numpy as np
import plain_losses
import pytest
import torch

from geocache.errors import ConfigError, ShapeError
from geocache.geometry import minimum_spanning_tree, nearest_neighbours
from geocache.student_train.losses.affinity_contrast import AffinityContrast
from geocache.student_train.losses.cross_entropy import CrossEntropy
from geocache.student_train.losses.distillation import Distillation


def _normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize("labels", [[0, 3, 2, 2], [1, -1, 0, -1], [-1, -1, -1, -1]])
def test_cross_entropy_equals_the_reference(labels: list[int]) -> None:
    logits, y = 3 * _normal(4, 5, seed=1), torch.tensor(labels)
    value = CrossEntropy()(student=logits, target={"labels": y})
    assert float(value) == pytest.approx(plain_losses.cross_entropy(logits.numpy(), y.numpy()))


def test_smoothed_cross_entropy_by_hand() -> None:
    # s = (log 3, 0), softmax = (3/4, 1/4); e = 0.2, K = 2: the label 0 becomes (0.9, 0.1).
    # L = -0.9 log(3/4) - 0.1 log(1/4) = 0.397543; the unlabelled row does not count.
    logits = torch.tensor([[np.log(3.0), 0.0], [5.0, 1.0]])
    loss = CrossEntropy(label_smoothing=0.2)
    value = loss(student=logits, target={"labels": torch.tensor([0, -1])})
    assert float(value) == pytest.approx(0.397543, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 6.0])
def test_distillation_equals_the_reference(temperature: float) -> None:
    student, teacher = 3 * _normal(4, 5, seed=1), 8 * _normal(4, 5, seed=2)
    loss = Distillation(temperature)
    value = loss(student=student, target={"logits": teacher})
    expected = plain_losses.distillation(student.numpy(), teacher.numpy(), temperature)
    assert float(value) == pytest.approx(expected, rel=1e-9)
    shifted = {"logits": teacher + 7}
    assert float(loss(student=student - 3, target=shifted)) == pytest.approx(expected, rel=1e-9)


def test_distillation_at_two_classes_by_hand() -> None:
    # T = 2, t = (2 log 3, 0): p = (3/4, 1/4); s = (0, 0): q = (1/2, 1/2).
    # KL = 3/4 log(3/2) + 1/4 log(1/2) = 0.130812; times T^2 = 4.
    teacher = torch.tensor([[2 * np.log(3.0), 0.0]])
    value = Distillation(2.0)(student=torch.zeros(1, 2).double(), target={"logits": teacher})
    assert float(value) == pytest.approx(4 * 0.130812, abs=4e-6)


def test_distillation_gradient() -> None:
    student, teacher = _normal(3, 4, seed=1).requires_grad_(), 4 * _normal(3, 4, seed=2)
    loss = Distillation(3.0)
    assert torch.autograd.gradcheck(lambda s: loss(student=s, target={"logits": teacher}), student)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("radius", [1, 3, 50])
def test_affinity_contrast_on_trees_equals_the_reference(radius: int, reduction: str) -> None:
    student, teacher = _normal(3, 4, 4, 3, seed=1), _normal(3, 2, 4, 3, seed=2)
    parents = minimum_spanning_tree(teacher.float())
    masks = [plain_losses.hop_mask(p.numpy(), radius) for p in parents]
    j = np.array(
        [
            plain_losses.affinity(x.reshape(2, -1), m)
            for x, m in zip(teacher.numpy(), masks, strict=True)
        ]
    )
    loss = AffinityContrast(radius=radius, reduction=reduction)
    target = {"mst": parents, f"affinity.r{radius}": torch.from_numpy(j)}
    expected = plain_losses.affinity_contrast(student.numpy(), masks, j, reduction)
    assert float(loss(student=student, target=target)) == pytest.approx(expected, abs=1e-12)


def test_affinity_contrast_on_lists_equals_the_reference() -> None:
    student, teacher = _normal(3, 4, 4, 3, seed=1), _normal(3, 2, 4, 3, seed=2)
    lists = nearest_neighbours(teacher.float(), 5)
    masks = [plain_losses.list_mask(row.numpy()) for row in lists]
    j = np.random.default_rng(3).random((3, 12))
    target = {"knn.k5": lists, "affinity.k5": torch.from_numpy(j)}
    expected = plain_losses.affinity_contrast(student.numpy(), masks, j, "sum")
    value = AffinityContrast(k=5)(student=student, target=target)
    assert float(value) == pytest.approx(expected, abs=1e-12)


def test_affinity_contrast_gradient_and_invariances() -> None:
    student = _normal(2, 3, 3, 3, seed=1).requires_grad_()
    parents = minimum_spanning_tree(_normal(2, 5, 3, 3, seed=2).float())
    target = {"mst": parents, "affinity.r2": torch.full((2, 9), 0.4, dtype=torch.float64)}
    loss = AffinityContrast(radius=2)
    assert torch.autograd.gradcheck(lambda s: loss(student=s, target=target), student)
    value = float(loss(student=student.detach(), target=target))
    moved = -2.5 * student.detach().flip(1) + 3.0
    assert float(loss(student=moved, target=target)) == pytest.approx(value, rel=1e-9)


def test_affinity_contrast_of_a_constant_map_is_the_teachers_size() -> None:
    parents = minimum_spanning_tree(torch.randn(1, 2, 3, 3, generator=torch.Generator()))
    target = {"mst": parents, "affinity.r2": torch.full((1, 9), 0.5)}
    student = torch.full((1, 4, 3, 3), 0.7, requires_grad=True)
    value = AffinityContrast(radius=2)(student=student, target=target)
    value.backward()  # type: ignore[no-untyped-call]
    assert float(value.detach()) == pytest.approx(9 * 0.25)  # J_S = 0
    assert student.grad is not None and not student.grad.any()


def test_affinity_contrast_names_both_grids() -> None:
    target = {"mst": torch.zeros(1, 16, dtype=torch.int64), "affinity.r2": torch.zeros(1, 16)}
    with pytest.raises(ShapeError, match="got 8x8 from the student and 4x4 from the teacher"):
        AffinityContrast(radius=2)(student=torch.zeros(1, 3, 8, 8), target=target)
    with pytest.raises(ShapeError, match="got no grid from the student"):
        AffinityContrast(radius=2)(student=torch.zeros(1, 16), target=target)


@pytest.mark.parametrize("options", [{}, {"radius": 2, "k": 3}, {"radius": 0}, {"k": -1}])
def test_affinity_contrast_refuses(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="affinity_contrast"):
        AffinityContrast(**options)  # type: ignore[arg-type]


def test_distillation_refuses() -> None:
    with pytest.raises(ConfigError, match="temperature must be a positive number, got 0"):
        Distillation(0.0)
    with pytest.raises(ShapeError, match="got 3 from the student and 4 from the teacher"):
        Distillation()(student=torch.zeros(2, 3), target={"logits": torch.zeros(2, 4)})
