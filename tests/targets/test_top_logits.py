"""The largest logits and the mass of the rest: what is stored, and that nothing else is needed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from geocache.errors import ConfigError, NumericError
from geocache.targets import LocalFeatures
from geocache.targets.logits import Logits


def rows(target: Logits, logits: Tensor) -> np.ndarray:
    return target.compute(LocalFeatures(logits, "model output"))


def test_columns_by_hand() -> None:
    # T = 2: the rest are classes 0 and 3 at t / T = 1 and 1, whose log-sum-exp is 1 + log 2.
    logits = torch.tensor([[2.0, 7.0, 3.0, 2.0]])
    found = rows(Logits(top=2, temperature=2.0), logits)
    assert found.tolist() == [[7.0, 3.0, 1.0, 2.0, pytest.approx(1 + math.log(2), rel=1e-7)]]


def test_equal_logits_go_by_class() -> None:
    found = rows(Logits(top=3, temperature=1.0), torch.tensor([[1.0, 5.0, 1.0, 5.0, 1.0]]))
    assert found[0, :6].tolist() == [5, 5, 1, 1, 3, 0]
    flat = rows(Logits(top=4, temperature=1.0), torch.zeros(1, 1000))
    assert flat[0, 4:8].tolist() == [0, 1, 2, 3]
    assert flat[0, 8] == pytest.approx(math.log(996))


def test_the_attributes_alone_give_the_softened_distribution_back() -> None:
    target = Logits(top=5, temperature=4.0)
    logits = 8 * torch.randn(6, 100, generator=torch.Generator().manual_seed(1))
    storage = target.storage((100,))
    assert storage.axes == ("column",)
    columns = {name: slice(*ends) for name, ends in storage.attributes["columns"].items()}
    assert columns["log_sum_exp_of_rest_over_temperature"].stop == storage.shape[0] == 11
    stored = rows(target, logits).astype(np.float64)
    top = np.exp(stored[:, columns["logit"]] / storage.attributes["temperature"])
    rest = np.exp(stored[:, columns["log_sum_exp_of_rest_over_temperature"]])
    exact = torch.softmax(logits.double() / 4, dim=1)
    classes = torch.from_numpy(stored[:, columns["class"]]).long()
    assert storage.attributes["n_classes"] == 100
    mass = top.sum(axis=1, keepdims=True) + rest
    assert top / mass == pytest.approx(exact.gather(1, classes).numpy(), rel=1e-6)
    held = exact.gather(1, classes).sum(1, keepdim=True)
    assert rest / mass == pytest.approx(1 - held.numpy(), rel=1e-6)


def test_values_beyond_float16_are_kept_and_beyond_float32_refused() -> None:
    logits = torch.tensor([[3e30, 1e30, -2e30]])
    assert rows(Logits(top=1, temperature=1.0), logits).tolist() == [
        [np.float32(3e30), 0, np.float32(1e30)]
    ]
    with pytest.raises(NumericError, match=r"temperature 0.0001 must fit float32.*model output"):
        rows(Logits(top=1, temperature=1e-4), logits * 1e6)


def test_top_must_leave_a_class() -> None:
    Logits(top=9, temperature=4.0).storage((10,))
    with pytest.raises(ConfigError, match=r"below the teacher's 10 classes, got 10.*store all"):
        Logits(top=10, temperature=4.0).storage((10,))


def test_whole_and_broken_temperatures_are_one_target() -> None:
    assert Logits(top=8, temperature=4).parameters == {"top": 8, "temperature": 4.0}
    assert str(Logits(top=8, temperature=4).temperature) == "4.0"
