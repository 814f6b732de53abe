"""What the trainer refuses before it starts, and what stops it cleanly later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from geocache.errors import (
    ConfigError,
    GeocacheError,
    MissingTargetError,
    NumericError,
    ShapeError,
    UnknownNameError,
)
from geocache.student_train import Progress, Recipe, parse_recipe, train


def _last(out: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(out / "last.pt", weights_only=True)
    return state


def _refusals() -> list[Any]:
    layer = {"name": "affinity_contrast", "teacher": "layer2", "radius": 2}
    return [
        pytest.param(
            {"loss": [layer | {"student": "block1"}]}, ShapeError,
            r"got 12x12 from the student and 6x6 from the teacher \(student tiny_student:build "
            r"layer 'block1', teacher teacher layer 'layer2'\). Student layers that match: "
            r"pool \(6x6x6\), block2.0 \(8x6x6\), .*block2 \(8x6x6\).", id="grids"),
        pytest.param(
            {"loss": [layer | {"student": "blok2"}]}, UnknownNameError,
            "got 'blok2'. Did you mean 'block2'", id="layer"),
        pytest.param(
            {"loss": [layer | {"student": "block2", "radius": 9}]}, MissingTargetError,
            r"layer2/affinity.r9 is missing .*Run `geocache build RECIPE.toml`", id="target"),
        pytest.param(
            {"student": {"model": "tiny_student:TinyStudent", "options": {"dropout": 0.0}},
             "train": {"validation": 0.001, "device": "cpu"}}, ConfigError,
            "train.validation must leave rows", id="validation"),
        pytest.param({"train": {"device": "cuda:77"}}, ConfigError, "got 'cuda:77'", id="device"),
    ]  # fmt: skip


@pytest.mark.parametrize(("change", "kind", "message"), _refusals())
def test_what_does_not_fit_is_refused_before_anything_is_written(
    cache: Any, tables: dict[str, Any], tmp_path: Path,
    change: dict[str, Any], kind: type[GeocacheError], message: str,
) -> None:  # fmt: skip
    with pytest.raises(kind, match=message) as caught:
        train(parse_recipe({**tables, **change}), cache, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_classes_of_another_teacher_are_refused(cache: Any, recipe: Recipe, tmp_path: Path) -> None:
    cache.arrays["logits"] = cache.arrays["logits"][:, :2].copy()
    with pytest.raises(ShapeError, match="got 3 from the student and 2 from the teacher"):
        train(recipe, cache, tmp_path / "run")


def test_select_test_without_evaluation_images_is_refused(
    cache: Any, tables: dict[str, Any], tmp_path: Path
) -> None:
    cache.eval_images = cache.eval_labels = None
    tables["train"] |= {"epochs": 1}
    assert train(parse_recipe(tables), cache, tmp_path / "a").test_accuracy is None
    tables["train"]["select"] = "test"
    with pytest.raises(ConfigError, match="no evaluation images"):
        train(parse_recipe(tables), cache, tmp_path / "b")


def test_a_loss_that_explodes_stops_in_one_line_and_keeps_the_last_epoch(
    cache: Any, tables: dict[str, Any], tmp_path: Path
) -> None:
    tables["train"] |= {"lr": 1e30, "milestones": []}
    with pytest.raises(NumericError, match=r"must stay finite, got NaN or infinity.*epoch 1") as e:
        train(parse_recipe(tables), cache, tmp_path)
    assert "\n" not in str(e.value)
    state = _last(tmp_path)
    assert state["epoch"] == 0
    assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_weights_that_explode_in_the_last_step_are_not_saved(
    cache: Any, tables: dict[str, Any], tmp_path: Path
) -> None:
    tables["train"] |= {"lr": 1e38, "batch_size": 64}  # one step an epoch: its loss is still fine
    tables["loss"][0]["weight"] = 1e10
    with pytest.raises(NumericError, match=r"student weights must stay finite.*holds epoch 0"):
        train(parse_recipe(tables), cache, tmp_path)
    assert _last(tmp_path)["epoch"] == 0


def test_a_target_that_is_not_finite_names_its_term(
    cache: Any, recipe: Recipe, tmp_path: Path
) -> None:
    cache.arrays["logits"][5] = float("nan")
    with pytest.raises(NumericError, match="loss term 'distillation' must be finite"):
        train(recipe, cache, tmp_path)


def test_an_exception_in_a_step_leaves_the_students_hooks_and_threads_clean(
    cache: Any, recipe: Recipe, tmp_path: Path
) -> None:
    n_threads = torch.get_num_threads()

    class Fail(Progress):
        def stepped(self, *, epoch: int, step: int, n_steps: int, loss: float) -> None:
            raise RuntimeError("watcher")

    with pytest.raises(RuntimeError, match="watcher"):
        train(recipe, cache, tmp_path, progress=Fail())
    assert torch.get_num_threads() == n_threads
