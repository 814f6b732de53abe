"""Attention, selectivity, patterns and batch kernels against slow references."""

from __future__ import annotations

from typing import Any

import numpy as np
import plain_losses
import plain_transfer as plain
import pytest
import torch
from torch import Tensor

from geocache.errors import ConfigError, ShapeError
from geocache.geometry import (
    channel_gram,
    minimum_spanning_tree,
    nearest_neighbours,
    normalised_channels,
    squared_distances,
)
from geocache.student_train.losses import build_loss
from geocache.targets import LocalFeatures, target_from_name

DEGENERATE = (
    "random",
    "relu",
    "dead channel",
    "constant",
    "zero",
    "identical rows",
    "huge",
    "tiny",
)


def maps(kind: str, seed: int, *shape: int) -> Tensor:
    """Return float64 maps (batch, channels, h, w) of a kind seen in real nets."""
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))
    if kind == "relu":
        return x.relu()
    if kind == "dead channel":
        x[:, 0] = 0
    if kind == "constant":
        return torch.full_like(x, 0.7)
    if kind == "zero":
        return torch.zeros_like(x)
    if kind == "identical rows":
        return x[:1].expand_as(x).clone()
    return x * {"huge": 1e12, "tiny": 1e-12}.get(kind, 1.0)


def run(name: str, options: dict[str, Any], student: Tensor, target: dict[str, Tensor]) -> float:
    """Return the loss, after checking that its gradient is finite."""
    student = student.clone().requires_grad_()
    value = build_loss(name, options)(student=student, target=target)
    value.backward()
    assert student.grad is not None and torch.isfinite(student.grad).all()
    return float(value.detach())


def close(expected: float) -> Any:
    return pytest.approx(expected, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("reduction", ["mean_square", "sum_square", "norm"])
@pytest.mark.parametrize("p", [1, 2, 4])
def test_attention_transfer(kind: str, reduction: str, p: int) -> None:
    student, teacher = maps(kind, 1, 3, 4, 3, 2), maps("relu", 2, 3, 5, 3, 2)
    attention = np.stack([plain.attention(t.numpy(), p).reshape(3, 2) for t in teacher])
    name = "attention" if p == 2 else f"attention.p{p}"
    options = {"p": p, "reduction": reduction}
    value = run("attention_transfer", options, student, {name: torch.from_numpy(attention)})
    expected = plain.attention_transfer(student.numpy(), teacher.numpy(), p, reduction)
    assert value == close(expected)


def test_attention_norm_has_no_gradient_at_its_minimum() -> None:
    student = maps("relu", 1, 2, 3, 2, 2).requires_grad_()
    attention = torch.stack(
        [torch.from_numpy(plain.attention(s.detach().numpy(), 2)) for s in student]
    ).view(2, 2, 2)
    loss = build_loss("attention_transfer", {"reduction": "norm"})
    loss(student=student, target={"attention": attention}).backward()
    assert student.grad is not None and torch.isfinite(student.grad).all()


def test_attention_of_unequal_grids_meets_on_the_smaller() -> None:
    student, attention = maps("relu", 1, 2, 3, 8, 8), maps("relu", 2, 2, 1, 4, 4)[:, 0]
    loss = build_loss("attention_transfer", {})
    assert float(loss(student=student, target={"attention": attention})) > 0
    small = maps("relu", 1, 2, 3, 2, 2)
    assert float(loss(student=small, target={"attention": attention})) > 0
    flat = torch.ones(2, 3, 8, 8, dtype=torch.float64)
    assert float(loss(student=flat, target={"attention": torch.ones(2, 4, 4)})) < 1e-15


@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("kernel", ["linear", "polynomial", "gaussian"])
@pytest.mark.parametrize("shape", [(3, 2, 2), (1, 2, 3), (4, 1, 1)])
def test_neuron_selectivity_equals_all_pairs(
    kind: str, kernel: str, shape: tuple[int, int, int]
) -> None:
    student, teacher = maps(kind, 1, 2, *shape), maps("relu", 2, 2, 5, *shape[1:])
    target = {
        "mean_map": normalised_channels(teacher).mean(dim=1),
        "gram": channel_gram(teacher),
        "activation": teacher,
    }
    value = run("neuron_selectivity", {"kernel": kernel}, student, target)
    assert value == close(plain.mmd(student.numpy(), teacher.numpy(), kernel))


def test_neuron_selectivity_of_a_larger_student_grid_is_interpolated() -> None:
    student = maps("relu", 1, 2, 3, 8, 4)
    small = torch.nn.functional.interpolate(student, size=(4, 2), mode="bilinear")
    target = {"gram": channel_gram(maps("relu", 2, 2, 5, 4, 2))}
    loss = build_loss("neuron_selectivity", {})
    torch.testing.assert_close(
        loss(student=student, target=target), loss(student=small, target=target)
    )
    with pytest.raises(ShapeError, match=r"2x2 from the student and 8 .* Set grid = \[2, 2\]"):
        loss(student=maps("relu", 1, 2, 3, 2, 2), target=target)


@pytest.mark.parametrize(("kernel", "kind"), [("linear", "mean_map"), ("polynomial", "gram")])
def test_neuron_selectivity_of_a_smaller_student_grid(kernel: str, kind: str) -> None:
    student, teacher = maps("relu", 1, 2, 3, 3, 4), maps("relu", 2, 2, 5, 8, 9)
    loss = build_loss("neuron_selectivity", {"kernel": kernel, "grid": [3, 4]})
    (name,) = loss.targets("layer2")
    assert name == f"layer2/{kind}.g3x4"
    target = target_from_name(name).target
    rows = target.compute(LocalFeatures(teacher, "layer2"))
    assert rows.shape == (2, *target.storage((5, 8, 9)).shape)
    stored = {f"{kind}.g3x4": target.decode(torch.from_numpy(rows)).double()}
    small = torch.nn.functional.interpolate(teacher, size=(3, 4), mode="bilinear")
    expected = plain.mmd(student.numpy(), small.numpy(), kernel)
    # Stored as float16.
    assert run("neuron_selectivity", {"kernel": kernel, "grid": [3, 4]}, student, stored) == (
        pytest.approx(expected, rel=1e-2)
    )
    exact = {"mean_map": normalised_channels(small).mean(dim=1), "gram": channel_gram(small)}
    value = loss(student=student, target={f"{kind}.g3x4": exact[kind]})
    assert float(value) == close(expected)
    with pytest.raises(ShapeError, match=r"student of 3x2. Set grid = \[3, 2\]"):
        loss(student=student[..., :2], target=stored)


def test_neuron_selectivity_brings_both_to_a_grid_of_other_proportions() -> None:
    student, teacher = maps("relu", 1, 2, 3, 6, 5), maps("relu", 2, 2, 5, 8, 3)
    s, t = (torch.nn.functional.interpolate(m, (4, 3), mode="bilinear") for m in (student, teacher))
    value = run("neuron_selectivity", {"grid": [4, 3]}, student, {"gram.g4x3": channel_gram(t)})
    assert value == close(plain.mmd(s.numpy(), t.numpy(), "polynomial"))


@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("hood", [{"radius": 1}, {"radius": 3}, {"k": 2}, {}])
def test_neighbouring_pattern(kind: str, hood: dict[str, int]) -> None:
    student, teacher = maps(kind, 1, 3, 4, 3, 2), maps("relu", 2, 3, 5, 3, 2)
    n = 6
    delta = squared_distances(teacher)
    rows, columns = torch.triu_indices(n, n, offset=1)
    target = {"distance": delta[:, rows, columns] * 3}
    everyone = ~np.eye(n, dtype=bool)
    masks = [everyone] * 3
    if "radius" in hood:
        target["mst"] = minimum_spanning_tree(teacher)
        masks = [plain_losses.hop_mask(p.numpy(), hood["radius"]) for p in target["mst"]]
    if "k" in hood:
        target["knn.k2"] = nearest_neighbours(teacher, 2)
        masks = [plain_losses.list_mask(row.numpy()) for row in target["knn.k2"]]
    value = run("neighbouring_pattern", hood, student, target)
    assert value == close(plain.neighbouring_pattern(student.numpy(), teacher.numpy(), masks))


def test_neighbouring_pattern_is_zero_without_gradient_at_the_teacher() -> None:
    teacher = maps("relu", 2, 2, 5, 3, 2)
    rows, columns = torch.triu_indices(6, 6, offset=1)
    target = {"distance": squared_distances(teacher)[:, rows, columns]}
    assert run("neighbouring_pattern", {}, teacher, target) < 1e-12


def test_neighbouring_pattern_refuses_another_grid_and_both_hoods() -> None:
    loss = build_loss("neighbouring_pattern", {})
    with pytest.raises(ShapeError, match="3x3 from the student and 6 positions"):
        loss(student=maps("relu", 1, 2, 3, 3, 3), target={"distance": torch.zeros(2, 15)})
    with pytest.raises(ConfigError, match="at most one"):
        build_loss("neighbouring_pattern", {"radius": 2, "k": 2})


@pytest.mark.parametrize("kind", [k for k in DEGENERATE if k not in ("huge", "tiny")])
def test_batch_kernels(kind: str) -> None:
    student, teacher = maps(kind, 1, 5, 3, 2, 2), maps("relu", 2, 5, 4, 2, 2)
    s, t = student.flatten(1).numpy(), teacher.flatten(1).numpy()
    pooled = {"pooled": teacher.mean((2, 3))}
    whole = {"activation": teacher}
    s_mean, t_mean = student.mean((2, 3)).numpy(), pooled["pooled"].numpy()
    assert run("pkt", {}, student, pooled) == close(plain.pkt(s_mean, t_mean))
    assert run("pkt", {"features": "flattened"}, student, whole) == close(plain.pkt(s, t))
    for power, diagonal in ((1.0, True), (2.0, True), (1.0, False)):
        options = {"p": power, "diagonal": diagonal}
        expected = plain.hybrid(s, t, power, diagonal)
        assert run("hybrid_kernel", options, student, whole) == pytest.approx(expected, abs=1e-6)
    assert run("metric_transfer", {}, student, pooled) == close(
        plain.metric_transfer(s_mean, t_mean)
    )
    for labels in ([0, 1, 0, 2, -1], [0, 0, 0, 0, 0], [-1] * 5):
        y = torch.tensor(labels)
        value = run("contrastive", {"margin": 2.0}, student, {"labels": y})
        assert value == close(plain.contrastive(s, y.numpy(), 2.0))


@pytest.mark.parametrize("name", ["pkt", "hybrid_kernel", "metric_transfer", "contrastive"])
def test_a_batch_of_one_cannot_be_compared(name: str) -> None:
    one = maps("relu", 1, 1, 3, 2, 2)
    target = {"pooled": one, "activation": one, "labels": torch.tensor([0])}
    with pytest.raises(ShapeError, match="at least 2"):
        build_loss(name, {})(student=one, target=target)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("attention_transfer", {"p": 0}),
        ("attention_transfer", {"reduction": "max"}),
        ("neuron_selectivity", {"kernel": "cubic"}),
        ("neuron_selectivity", {"kernel": "gaussian", "grid": [4, 4]}),
        ("neuron_selectivity", {"grid": [0, 4]}),
        ("neuron_selectivity", {"grid": [4]}),
        ("pkt", {"features": "raw"}),
        ("hybrid_kernel", {"p": 0.0}),
        ("contrastive", {"margin": 0.0}),
        ("neighbouring_pattern", {"radius": 0}),
        ("hint", {"dtype": "int4"}),
        ("neuron_selectivity", {"kernel": "gaussian", "dtype": "int4"}),
        ("neuron_selectivity", {"kernel": "polynomial", "dtype": "int8"}),
        ("pkt", {"features": "pooled", "dtype": "int8"}),
    ],
)
def test_bad_options_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        build_loss(name, options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("hint", {}),
        ("neuron_selectivity", {"kernel": "gaussian"}),
        ("pkt", {"features": "flattened"}),
        ("hybrid_kernel", {}),
        ("metric_transfer", {"features": "flattened"}),
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_losses_on_maps_read_the_stored_type_they_name(
    name: str, options: dict[str, Any], dtype: str
) -> None:
    student, teacher = maps("relu", 1, 3, 4, 3, 2), maps("relu", 2, 3, 4, 3, 2)
    target = "activation" if dtype == "float16" else f"activation.{dtype}"
    assert build_loss(name, {**options, "dtype": dtype}).targets("l") == (f"l/{target}",)
    value = run(name, {**options, "dtype": dtype}, student, {target: teacher})
    assert value == run(name, options, student, {"activation": teacher})


def test_hint_projects_and_compares() -> None:
    student, teacher = maps("relu", 1, 2, 3, 2, 2).float(), maps("relu", 2, 2, 5, 2, 2).float()
    loss = build_loss("hint", {})
    adapter = loss.adapter(student=student, target={"activation": teacher})
    assert isinstance(adapter, torch.nn.Conv2d)
    weight = adapter.weight[:, :, 0, 0].double()
    expected = (
        torch.einsum("dc,bchw->bdhw", weight, student.double())
        + adapter.bias.double()[:, None, None]
        - teacher
    )
    value = loss(student=adapter(student), target={"activation": teacher})
    assert float(value.detach()) == pytest.approx(
        float(expected.detach().square().mean()), rel=1e-6
    )
    with pytest.raises(ShapeError, match="4x4 from the student and 2x2"):
        loss(student=torch.zeros(2, 5, 4, 4), target={"activation": teacher})


@pytest.mark.parametrize("hood", [{"radius": 1}, {"radius": 3}, {"k": 2}, {}])
def test_neighbouring_pattern_gradient(hood: dict[str, int]) -> None:
    student, teacher = maps("random", 1, 2, 3, 3, 2), maps("relu", 2, 2, 5, 3, 2)
    rows, columns = torch.triu_indices(6, 6, offset=1)
    target = {
        "distance": squared_distances(teacher)[:, rows, columns],
        "mst": minimum_spanning_tree(teacher),
        "knn.k2": nearest_neighbours(teacher, 2),
    }
    loss = build_loss("neighbouring_pattern", hood)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(student=s, target=target), student)
    with torch.no_grad():
        assert torch.equal(loss(student=student, target=target), loss(
            student=student.detach(), target=target))  # fmt: skip
    assert float(loss(student=student, target=target).detach()) == float(
        loss(student=student.detach(), target=target)
    )
