"""Labels of the user's own: several answers or numbers an image, from a file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geocache.errors import ConfigError, GeocacheError
from geocache.student_train import evaluate_run, load_student, parse_recipe, read_records, train
from geocache.student_train.losses import build_loss
from geocache.student_train.own_labels import own_figures
from geocache.student_train.setup import prepare


def _brightness(images: Any) -> Any:
    """Two numbers that the pixels say: the mean of the upper and of the lower half, scaled."""
    means = images.reshape(len(images), 2, -1).mean(axis=2)
    return ((means - 80) / 30).astype(np.float32)


@pytest.fixture
def own(cache: Any, tables: dict[str, Any], tmp_path: Path) -> tuple[Any, dict[str, Any]]:
    """A recipe of own labels whose lines stand in another order than the cache's rows."""
    index = np.random.default_rng(2).permutation(cache.n_rows)
    cache.dataset_index = index
    lines = np.empty((cache.n_rows, 2), np.float32)
    lines[index] = _brightness(cache.arrays["images"])
    np.save(tmp_path / "train.npy", lines)
    np.save(tmp_path / "test.npy", _brightness(cache.eval_images))
    tables["data"] |= {
        "labels": str(tmp_path / "train.npy"), "eval_labels": str(tmp_path / "test.npy")
    }  # fmt: skip
    tables["loss"] = [
        {"name": "mean_squared_error"},
        {"name": "affinity_contrast", "student": "block2", "teacher": "layer2", "radius": 2,
         "share": 0.1},
    ]  # fmt: skip
    tables["student"] = {"model": "tiny_student:build", "options": {"dropout": 0.0}}
    tables["train"] |= {"epochs": 12, "milestones": [], "lr": 0.01}
    return cache, tables


def test_a_student_learns_numbers_beside_a_feature_loss(
    own: tuple[Any, dict[str, Any]], tmp_path: Path
) -> None:
    cache, tables = own
    result = train(parse_recipe(tables), cache, tmp_path / "run")
    start, *epochs, _ = read_records(tmp_path / "run")
    best = max(epochs, key=lambda record: record["validation_r2"])
    assert result.best_epoch == best["epoch"] and best["test_r2"] > 0.3
    assert not any("accuracy" in name for record in epochs for name in record)
    size = start["terms"]["affinity_contrast@block2"]["weighted"]
    assert size == pytest.approx(0.1 * start["terms"]["mean_squared_error"]["size"])
    student, state = load_student(tmp_path / "run")
    assert state["classes"] == ["0", "1"] and student(torch.zeros(1, 3, 12, 12)).shape == (1, 2)
    with pytest.raises(ConfigError, match=r"run must have learned classes .* got own labels"):
        evaluate_run(tmp_path / "run", cache)
    # The same numbers shuffled among the images teach nothing: the lines find their rows.
    path = Path(tables["data"]["labels"])
    np.save(path, np.random.default_rng(1).permutation(np.load(path)))
    train(parse_recipe(tables), cache, tmp_path / "shuffled")
    assert max(r["test_r2"] for r in read_records(tmp_path / "shuffled")[1:-1]) < best["test_r2"]


def test_several_answers_an_image_are_learned_and_resumed_exactly(
    own: tuple[Any, dict[str, Any]], tmp_path: Path
) -> None:
    cache, tables = own
    for name in ("labels", "eval_labels"):
        path = Path(tables["data"][name])
        answers = (np.load(path) > 0).astype(np.float32)
        answers[0, 1] = np.nan
        np.save(path, answers)
    tables["loss"][0]["name"] = "binary_cross_entropy"
    tables["train"]["select"] = "test"
    result = train(parse_recipe(tables), cache, tmp_path / "whole")
    assert result.test_accuracy is not None and result.test_accuracy > 0.8
    shorter = copy.deepcopy(tables)
    shorter["train"]["epochs"] = 2
    train(parse_recipe(shorter), cache, tmp_path / "parts")
    train(parse_recipe(tables), cache, tmp_path / "parts", resume=True)
    states = [torch.load(tmp_path / n / "last.pt", weights_only=True) for n in ("whole", "parts")]
    for name, value in states[0]["model"].items():
        assert torch.equal(value, states[1]["model"][name]), name


def test_streamed_and_resident_rows_have_the_same_labels(own: tuple[Any, dict[str, Any]]) -> None:
    cache, tables = own
    cache.group = 8
    expected = _brightness(cache.arrays["images"])
    orders = []
    for mode in ("resident", "stream"):
        tables["data"] |= {"mode": mode, "buffer_rows": 16}
        setup = prepare(parse_recipe(tables), cache)
        assert setup.loader.mode == mode
        order: list[int] = []
        for batch in setup.loader.epoch(0, drop_single=True):
            order += batch.rows.tolist()
            np.testing.assert_array_equal(batch.labels, expected[batch.rows])
        assert setup.validation is not None
        for batch in setup.validation.in_order(None):
            np.testing.assert_array_equal(batch.labels, expected[batch.rows])
        orders.append(order)
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])


def test_losses_and_figures_by_hand() -> None:
    s = torch.tensor([[0.0, 2.0], [1.0, -1.0]])
    y = torch.tensor([[1.0, 0.0], [torch.nan, 1.0]])
    # (0 - 1)^2, (2 - 0)^2, (-1 - 1)^2 over three known labels.
    value = build_loss("mean_squared_error")(student=s, target={"labels": y})
    assert float(value) == pytest.approx((1 + 4 + 4) / 3)
    # log 2, log(1 + e^2), log(1 + e).
    expected = (np.log(2) + np.log1p(np.exp(2)) + np.log1p(np.exp(1))) / 3
    value = build_loss("binary_cross_entropy")(student=s, target={"labels": y})
    assert float(value) == pytest.approx(expected)
    binary = own_figures("binary", s, y)
    assert binary["loss"] == pytest.approx(expected)
    assert binary["accuracy"] == 0.0  # 0 is not above 0: wrong, as are the two of the other label
    # Label 0 has one known value and no spread; label 1: 1 - (4 + 4) / 0.5 = -15.
    assert own_figures("values", s, y) == pytest.approx({"r2": -15.0, "loss": 3.0})


REFUSED: list[tuple[str, Any, str]] = [
    ("labels", None, r"data.labels must name a .npy file for loss 'mean_squared_error'"),
    ("labels", "none.npy", r"data.labels must be a readable file, got '.*none.npy'"),
    ("labels", np.zeros((61, 2, 2), np.float32), r"numbers of shape \(n, k\)"),
    ("labels", np.full((61, 2), np.inf), r"data.labels must be finite, or NaN"),
    ("labels", np.zeros((60, 2)), r"a line for each of the data set's images, at least 61, got 60"),
    ("labels", np.array(["a"] * 61), r"must be a .npy file of numbers"),
    ("eval_labels", np.zeros((30, 3)), r"eval_labels must be of shape \(30, 2\), got \(30, 3\)"),
]


@pytest.mark.parametrize(("key", "value", "message"), REFUSED)
def test_files_that_do_not_fit_are_one_line(
    own: tuple[Any, dict[str, Any]], tmp_path: Path, key: str, value: Any, message: str
) -> None:
    cache, tables = own
    if isinstance(value, np.ndarray):
        np.save(Path(tables["data"][key]), value)
    else:
        tables["data"][key] = value
    with pytest.raises(GeocacheError, match=message) as caught:
        train(parse_recipe(tables), cache, tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_own_labels_go_with_losses_of_theirs_alone(own: tuple[Any, dict[str, Any]]) -> None:
    _, tables = own
    for more in ("cross_entropy", "binary_cross_entropy"):
        losses = [*tables["loss"], {"name": more}]
        with pytest.raises(ConfigError, match="losses of one kind of own labels"):
            parse_recipe({**tables, "loss": losses})
    tables["loss"][0]["share"] = 0.5
    with pytest.raises(ConfigError, match="must have a weight, got share"):
        parse_recipe(tables)


def test_choosing_by_a_split_without_labels_is_refused(
    own: tuple[Any, dict[str, Any]], tmp_path: Path
) -> None:
    cache, tables = own
    del tables["data"]["eval_labels"]
    tables["train"]["select"] = "test"
    with pytest.raises(ConfigError, match=r"'loss' without data.eval_labels, got 'test'"):
        train(parse_recipe(tables), cache, tmp_path / "run")
