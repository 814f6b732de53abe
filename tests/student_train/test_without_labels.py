"""Feature losses alone: training and choosing an epoch where no row has a label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geocache.errors import ConfigError
from geocache.models import Taps
from geocache.student_train import parse_recipe, plot_runs, read_records, train
from geocache.student_train.setup import prepare


@pytest.fixture
def unlabelled(cache: Any, tables: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    cache.labels = np.full_like(cache.labels, -1)
    cache.eval_labels = np.full_like(cache.eval_labels, -1)
    del tables["loss"][0], tables["loss"][1]["share"]
    tables["train"]["select"] = "loss"
    return cache, tables


def test_a_student_learns_from_features_alone(
    unlabelled: tuple[Any, dict[str, Any]], tmp_path: Path
) -> None:
    cache, tables = unlabelled
    result = train(parse_recipe(tables), cache, tmp_path / "run")
    start, *epochs, end = read_records(tmp_path / "run")
    assert start["n_validation"] == 12
    totals = [record["validation_total"] for record in epochs]
    assert totals[-1] < totals[0]
    assert result.best_epoch == 1 + int(np.argmin(totals)) == end["best_epoch"]
    assert not any("accuracy" in name for record in epochs for name in record)
    assert (result.validation_accuracy, result.test_accuracy) == (None, None)
    plot_runs([tmp_path / "run", tmp_path / "run"], tmp_path / "both.png")


def test_the_total_is_that_of_the_held_out_rows(
    unlabelled: tuple[Any, dict[str, Any]], tmp_path: Path
) -> None:
    """With a rate near 0 the student stays what it was: the total can be had by hand."""
    cache, tables = unlabelled
    tables["train"] |= {"epochs": 1, "lr": 1e-30, "batch_size": 5}  # 12 rows: 5 + 5 + 2
    recipe = parse_recipe(tables)
    train(recipe, cache, tmp_path)
    setup = prepare(recipe, cache)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    setup.student.load_state_dict(state["model"])
    setup.student.eval()
    assert setup.validation is not None
    batch = setup.validation.batch(setup.validation.rows)
    weights = state["calibration"]["weights"]
    with Taps(setup.student, ["block2"]) as taps, torch.no_grad():
        logits, features = taps(batch.images)
        values = {term.label: term.value(logits, features, batch) for term in setup.terms}
    expected = sum(weights[label] * float(value) for label, value in values.items())
    assert read_records(tmp_path)[1]["validation_total"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("select", ["validation", "test"])
def test_choosing_by_labels_that_are_not_there_is_refused(
    unlabelled: tuple[Any, dict[str, Any]], tmp_path: Path, select: str
) -> None:
    cache, tables = unlabelled
    tables["train"]["select"] = select
    with pytest.raises(ConfigError, match="must be 'loss' where nothing is labelled, got"):
        train(parse_recipe(tables), cache, tmp_path)
    assert not list(tmp_path.iterdir())


def test_labelled_rows_are_measured_beside_the_loss(
    cache: Any, tables: dict[str, Any], tmp_path: Path
) -> None:
    tables["train"] |= {"select": "loss", "epochs": 2}
    result = train(parse_recipe(tables), cache, tmp_path)
    records = read_records(tmp_path)[1:-1]
    assert all(
        {"validation_accuracy", "validation_total", "test_accuracy"} <= r.keys() for r in records
    )
    assert result.test_accuracy == records[result.best_epoch - 1]["test_accuracy"]
