"""Fixed subsets: which rows, for whom, and that nothing else decides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geocache.data.cache import Cache
from geocache.errors import ConfigError
from geocache.student_train import dataset_source, parse_recipe, train
from geocache.student_train.setup import prepare
from geocache.student_train.subset import class_subset, sample_keys

LABELS = np.repeat([-1, 0, 1, 2], [3, 10, 40, 1])
KEYS = np.random.default_rng(0).integers(0, 2**63, len(LABELS)).astype(np.uint64)
ROWS = np.arange(len(LABELS))


def _subset(fraction: float, seed: int = 0) -> list[int]:
    return class_subset(ROWS, LABELS, KEYS, fraction=fraction, seed=seed).tolist()


def test_every_class_gives_its_fraction_and_at_least_one() -> None:
    counts = dict(zip(*np.unique(LABELS[_subset(0.25)], return_counts=True), strict=True))
    assert counts == {-1: 1, 0: 2, 1: 10, 2: 1}
    assert _subset(1.0) == ROWS.tolist()


def test_larger_fractions_hold_smaller_ones_and_seeds_differ() -> None:
    assert set(_subset(0.2)) < set(_subset(0.5)) < set(_subset(0.9))
    assert _subset(0.5) != _subset(0.5, seed=1)


def test_samples_decide_and_not_where_they_stand() -> None:
    order = np.random.default_rng(1).permutation(len(ROWS))
    elsewhere = class_subset(ROWS, LABELS[order], KEYS[order], fraction=0.5)
    assert set(KEYS[order][elsewhere]) == set(KEYS[_subset(0.5)])


@pytest.mark.parametrize("fraction", [0.0, 1.5, float("nan")])
def test_other_fractions_are_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match=r"data.fraction must be above 0 and at most 1"):
        _subset(fraction)


def test_a_cache_and_its_data_set_give_the_same_samples(small_cache: Cache) -> None:
    """With a teacher and without one, for every seed of training and every loss."""
    tables: dict[str, Any] = {
        "data": {"dataset": "digits", "fraction": 0.1, "subset_seed": 3},
        "teacher": {"model": "resnet20"},
        "student": {"model": "simple_cnn"},
        "loss": [{"name": "cross_entropy"}, {"name": "distillation"}],
        "train": {"device": "cpu", "seed": 5},
    }
    cached = _samples(prepare(parse_recipe(tables), small_cache))
    del tables["teacher"]
    tables["loss"] = tables["loss"][:1]
    tables["train"]["seed"] = 6
    recipe = parse_recipe(tables)
    plain = _samples(prepare(recipe, dataset_source(recipe)))
    assert cached == plain and len(cached) == pytest.approx(144, abs=5)


def _samples(setup: Any) -> set[int]:
    rows = np.concatenate([setup.loader.rows, setup.validation.rows])
    return set(sample_keys(setup.source)[rows].tolist())


def test_a_run_says_which_part_it_took(cache: Any, tables: dict[str, Any], tmp_path: Path) -> None:
    tables["data"] |= {"fraction": 0.5, "subset_seed": 7}
    tables["train"]["epochs"] = 1
    train(parse_recipe(tables), cache, tmp_path)
    start = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert (start["fraction"], start["subset_seed"]) == (0.5, 7)
    assert start["n_train"] + start["n_validation"] == pytest.approx(30, abs=2)
