"""A loss from the cache equals the loss with the teacher in the loop, within the storage precision.

Online: the teacher's forward on the data set's own pixels, stored nowhere; what the loss compares
with comes from it by the float64 formulas of `tests/reference/`. Cached: build, read, decode, loss
in float32.

The bound. A stored number t_j is off by at most e_j (`storage_error`), so to first order the loss
is off by sum_j |dL/dt_j| e_j, and entry i of its gradient by sum_j |dg_i/dt_j| e_j. Both sums are
taken here in float64 by moving each t_j by e_j both ways: half the difference is |dL/dt_j| e_j. No
constant is fitted: terms of second order are left 5 % of that (e_j is below 2^-8 of the range of t
for every type, so they are a few hundredths at most), and sums of float32 `ROUNDING` of their size.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from online_bounds import ROUNDING, SECOND_ORDER, WHOLE, inherited_error, storage_error
from online_cases import CASES, Case, Online
from online_world import LAYER, World, build_worlds
from shape_checker import unchecked_shapes
from torch import Tensor, nn

from geocache.student_train import Batch, Loader, build_loss, loss_names
from geocache.student_train.losses import Loss
from geocache.targets import target_names

Array = NDArray[Any]

BATCH = 6
Compare = Callable[[Case, str], "Comparison"]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    return build_worlds(tmp_path_factory.mktemp("worlds"))


@pytest.fixture(scope="module")
def compare(worlds: dict[str, World]) -> Compare:
    """Compare a case in a world; each pair's bound is computed once."""
    known: dict[tuple[str, str], Comparison] = {}

    def of(case: Case, kind: str) -> Comparison:
        key = str(case), kind
        if key not in known:
            known[key] = Comparison(case, worlds[kind])
        return known[key]

    return of


def run(
    loss: Loss, student: Tensor, target: dict[str, Tensor], adapter: nn.Module
) -> tuple[float, Array]:
    """Return the loss and its gradient with respect to the student's map."""
    student = student.clone().requires_grad_()
    value = loss(student=adapter(student), target=target)
    value.backward()
    assert student.grad is not None
    return float(value.detach()), student.grad.double().numpy()


class Comparison:
    """One batch of a world under one case: online, cached, and the bound between them."""

    def __init__(self, case: Case, world: World, student_seed: int = 0) -> None:
        loss = build_loss(case.name, case.options)
        self.case, self.loss, self.world = case, loss, world
        # Rows of an epoch, which are not the first ones in their order.
        loader = Loader(world.cache, loss.targets(LAYER), batch_size=BATCH, seed=1)
        self.batch: Batch = next(loader.epoch(0))
        rows = self.batch.rows.numpy()
        online = world.online
        self.online = Online(online.maps[rows], online.logits[rows], online.labels[rows])
        where = LAYER if loss.needs_layer else None
        self.cached = self.batch.at(where)
        self.exact = {name: self.online.of(name) for name in loss.targets()}
        self.errors = {n: storage_error(n, t) for n, t in self.exact.items()}
        if world.beside:
            for name in self.exact:
                if name.partition(".")[0] not in (*WHOLE, "activation") and name != "logits":
                    self.errors[name] = self.errors[name] + self._inherited(name)
        generator = torch.Generator().manual_seed(student_seed)
        shape = (BATCH, 3, 4, 4) if loss.needs_layer else (BATCH, 10)
        # Rows of many sizes, so that some distances are above the teacher's and some below.
        sizes = torch.logspace(-0.8, -0.2, BATCH).view(-1, *[1] * (len(shape) - 1))
        self.student = sizes * (torch.randn(shape, generator=generator).relu_() + 0.1)
        torch.manual_seed(2)
        adapter = loss.adapter(student=self.student, target=self.cached)
        self.adapter = adapter or nn.Identity()
        self.wide_adapter = copy.deepcopy(self.adapter).double()

    def _inherited(self, name: str) -> Array:
        if not name.startswith("logits"):
            return inherited_error(name, self.online.maps)
        return inherited_error(name, self.online.logits) * (self.errors[name] > 0)

    def target(self, exact: dict[str, Array], rows: slice = slice(None)) -> dict[str, Tensor]:
        labels = torch.from_numpy(self.online.labels)
        tensors = {name: torch.from_numpy(t) for name, t in exact.items()}
        return {name: t[rows] for name, t in {"labels": labels, **tensors}.items()}

    def run_online(self, exact: dict[str, Array], rows: slice = slice(None)) -> tuple[float, Array]:
        target = self.target(exact, rows)
        return run(self.loss, self.student[rows].double(), target, self.wide_adapter)

    @functools.cached_property
    def bound(self) -> tuple[float, float]:
        """The bounds on the value's and on any gradient entry's error."""
        with unchecked_shapes():  # Thousands of calls, of shapes that `run` has checked.
            return self._bound()

    def _bound(self) -> tuple[float, float]:
        parts = [slice(b, b + 1) for b in range(BATCH)] if self.case.by_image else [slice(None)]
        value, largest = 0.0, 0.0
        for rows in parts:
            slopes = np.zeros(self.student[rows].shape)
            for name in self.exact:
                for up, down in self.moved(name, rows):
                    (v_up, g_up), (v_down, g_down) = (
                        self.run_online({**self.exact, name: t}, rows) for t in (up, down)
                    )
                    value += abs(v_up - v_down) / 2 / len(parts)
                    slopes += np.abs(g_up - g_down) / 2 / len(parts)
            largest = max(largest, float(slopes.max()))
        exact_value, gradient = self.run_online(self.exact)
        rounded = ROUNDING * max(exact_value, self.case.value_scale)
        return SECOND_ORDER * value + rounded, SECOND_ORDER * largest + ROUNDING * float(
            np.abs(gradient).max()
        )

    def moved(self, name: str, rows: slice) -> Iterator[tuple[Array, Array]]:
        """Yield the target with one stored number moved by its error, up and down."""
        exact, error = self.exact[name], self.errors[name]
        for place in zip(*np.nonzero(error[rows]), strict=True):
            at = (place[0] + (rows.start or 0), *place[1:])
            if name == "gram" and at[1] > at[2]:
                continue  # one triangle is stored
            up, down = exact.copy(), exact.copy()
            for entry in {at, (at[0], *at[:0:-1]) if name == "gram" else at}:
                up[entry] += error[entry]
                down[entry] -= error[entry]
            yield up, down

    def off(self, target: dict[str, Tensor]) -> tuple[float, float]:
        """Return how far the float32 loss and its gradient are off, as parts of the bounds."""
        value, gradient = self.run_online(self.exact)
        ours, our_gradient = run(self.loss, self.student, target, self.adapter)
        of_value, of_gradient = self.bound
        worst = float(np.abs(our_gradient - gradient).max())
        return abs(ours - value) / of_value, worst / of_gradient


each_case = pytest.mark.parametrize("case", CASES, ids=str)


def _followers() -> list[Case]:
    """Return the cases that read more than what is at hand as a source."""
    return [
        case
        for case in CASES
        if {"logits", "activation", "activation.float32", "activation.int8"}.isdisjoint(
            build_loss(case.name, case.options).targets() or ("logits",)
        )
    ]


each_follower = pytest.mark.parametrize("case", _followers(), ids=str)


def test_every_loss_and_every_stored_type_has_a_case() -> None:
    own = {"binary_cross_entropy", "mean_squared_error"}
    assert {case.name for case in CASES} == set(loss_names()) - own  # they read no teacher at all
    names = {n for case in CASES for n in build_loss(case.name, case.options).targets()}
    kinds = set(target_names()) - {"mask"}  # for other programs: no loss reads it
    assert {name.partition(".")[0] for name in names} == kinds
    assert {"activation", "activation.float32", "activation.int8"} <= names


@each_case
def test_online_value_and_gradient_are_the_equations(case: Case, compare: Compare) -> None:
    comparison = compare(case, "stored")
    value, gradient = comparison.run_online(comparison.exact)

    def slow(student: Tensor) -> float:
        ours = comparison.wide_adapter(student).detach().numpy()
        return case.slow(ours, comparison.online)

    student = comparison.student.double()
    assert value == pytest.approx(slow(student), rel=1e-9)
    if case.options.get("kernel") == "gaussian":
        return  # sigma is a constant in the gradient; differences of the equation would move it
    # The derivative along one random direction, by differences of the slow equation.
    along = torch.randn(student.shape, generator=torch.Generator().manual_seed(3)).double()
    step = 1e-6
    expected = (slow(student + step * along) - slow(student - step * along)) / (2 * step)
    assert float((torch.from_numpy(gradient) * along).sum()) == pytest.approx(expected, rel=1e-3)


@each_case
def test_stored_by_the_teacher(case: Case, compare: Compare) -> None:
    _assert_within(compare(case, "stored"))


@each_follower
def test_derived_from_float16_belongs_to_the_rounded_map(case: Case, compare: Compare) -> None:
    """Trees, lists and J are those of the map as it is stored, exactly and to storage precision."""
    _assert_within(compare(case, "derived"))


@each_follower
def test_derived_beside_the_teachers_trees_keeps_to_the_teacher(
    case: Case, compare: Compare
) -> None:
    """With the neighbourhood stored, deriving adds what float16 costs the map, and no more."""
    _assert_within(compare(case, "derived beside the trees"))


def _assert_within(comparison: Comparison) -> None:
    for name, exact in comparison.exact.items():
        error = np.abs(comparison.cached[name].double().numpy() - exact)
        # Whole numbers and float32 maps have no error; float32 rounds what is decoded.
        assert (error <= comparison.errors[name] * 1.001).all(), name
    of_value, of_gradient = comparison.off(comparison.cached)
    assert of_value <= 1 and of_gradient <= 1


@each_case
def test_what_belongs_to_another_image_is_out_of_bounds(case: Case, compare: Compare) -> None:
    comparison = compare(case, "stored")
    shifted = {name: values.roll(1, 0) for name, values in comparison.cached.items()}
    assert max(comparison.off(shifted)) > 10


@pytest.mark.parametrize("case", [case for case in CASES if case.wrong], ids=str)
def test_another_radius_temperature_or_exponent_is_out_of_bounds(
    case: Case, compare: Compare
) -> None:
    comparison = compare(case, "stored")
    where = LAYER if comparison.loss.needs_layer else None
    for name, other in case.wrong.items():
        stored = f"{where}/{other}" if where else other
        loader = Loader(comparison.world.cache, [stored])
        values = loader.batch(comparison.batch.rows.numpy()).at(where)[other]
        assert max(comparison.off({**comparison.cached, name: values})) > 10


def test_rounding_moves_neighbourhoods(worlds: dict[str, World]) -> None:
    """So the two ways of deriving differ, and the first is not tried on equal trees alone."""
    stored, derived = (worlds[kind].cache for kind in ("stored", "derived"))
    assert not np.array_equal(
        stored.read(f"{LAYER}/knn.k3", 0, stored.n_rows),
        derived.read(f"{LAYER}/knn.k3", 0, stored.n_rows),
    )
