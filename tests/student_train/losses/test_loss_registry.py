"""Losses by name, and a user's own loss from a module in the current folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from geocache.errors import ConfigError, GeocacheError, UnknownNameError
from geocache.student_train import parse_recipe, train
from geocache.student_train.losses import build_loss, loss_names

OWN_LOSS = """
from dataclasses import dataclass

from geocache.student_train import Loss


@dataclass(frozen=True)
class LogitMatch(Loss):
    power: float
    layers: tuple[str, ...] = ()

    def targets(self, layer=None):
        return ("logits",)

    def __call__(self, *, student, target):
        return (student - target["logits"]).abs().pow(self.power).mean()


def not_a_class():
    pass
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_loss_for_test.py").write_text(OWN_LOSS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return "own_loss_for_test"


def test_names_are_the_modules() -> None:
    assert set(loss_names()) >= {"affinity_contrast", "cross_entropy", "distillation"}
    assert not any(name.startswith("_") for name in loss_names())


def test_an_own_loss_trains_from_a_recipe(
    own_module: str, cache: Any, tables: dict[str, Any], tmp_path: Path
) -> None:
    tables["loss"] = [{"name": f"{own_module}:LogitMatch", "power": 2, "layers": ["a"]}]
    tables["train"]["epochs"] = 1
    result = train(parse_recipe(tables), cache, tmp_path / "run")
    assert result.term_sizes[f"{own_module}:LogitMatch"] > 0


def test_options_take_their_fields_types(own_module: str) -> None:
    loss: Any = build_loss(f"{own_module}:LogitMatch", {"power": 2, "layers": ["a", "b"]})
    assert loss.layers == ("a", "b") and isinstance(loss.power, float)
    value = loss(student=torch.ones(2, 3), target={"logits": torch.zeros(2, 3)})
    assert float(value) == 1.0


@pytest.mark.parametrize(("name", "options", "message"), [
    ("own_loss_for_test:LogitMatch", {}, "must have the option 'power'"),
    ("own_loss_for_test:LogitMatch", {"power": "x"}, "power must be a valid number.*got 'x'"),
    ("own_loss_for_test:not_a_class", {}, "must name a dataclass derived from .*Loss"),
    ("own_loss_for_test:Nothing", {}, "must name something that module"),
    ("no_such_module_here:Loss", {}, "must name an importable module"),
    ("affinity_contras", {}, "Did you mean 'affinity_contrast'"),
])  # fmt: skip
def test_what_is_no_loss_is_refused(
    own_module: str, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, UnknownNameError), match=message) as caught:
        build_loss(name, options)
    assert isinstance(caught.value, GeocacheError) and "\n" not in str(caught.value)
