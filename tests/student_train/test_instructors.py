"""Several teachers at once: each loss sees its own teacher's answers, for the same rows."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geocache.errors import CacheError, ConfigError
from geocache.student_train import Loader, parse_recipe, train
from geocache.student_train.instructors import Instructors, as_source
from geocache.student_train.recipe import target_names


@pytest.fixture
def other(cache: Any) -> Any:
    """The cache of another teacher over the same rows."""
    other = copy.deepcopy(cache)
    other.key = "fedcba9876543210"
    other.arrays["logits"] = -other.arrays["logits"]
    other.arrays["layer2/affinity.r2"] = other.arrays["layer2/affinity.r2"] // 2
    other.valid[3] = False
    return other


@pytest.fixture
def two(tables: dict[str, Any]) -> dict[str, Any]:
    """The recipe of both: logits of each, and the second one's affinities."""
    tables["teacher"] = [
        {"name": "near", "model": "resnet20"},
        {"name": "far", "model": "resnet20", "mean": [0.1, 0.1, 0.1]},
    ]
    tables["loss"][1] |= {"teacher": "near"}
    tables["loss"].append({**tables["loss"][1], "teacher": "far"})
    tables["loss"][2]["teacher"] = "far/layer2"
    return tables


def test_each_term_equals_the_one_with_its_teacher_alone(
    cache: Any, other: Any, two: dict[str, Any], tables: dict[str, Any], tmp_path: Path
) -> None:
    cache.valid[3] = False
    both = train(parse_recipe(two), {"near": cache, "far": other}, tmp_path / "both")
    alone = copy.deepcopy(two)
    alone["teacher"] = [two["teacher"][1] | {"mean": [0.485, 0.456, 0.406]}]
    alone["loss"] = [two["loss"][0], two["loss"][2], two["loss"][3]]
    far = train(parse_recipe(alone), other, tmp_path / "far")
    near_only = {**alone, "teacher": [two["teacher"][0]], "loss": two["loss"][:2]}
    near = train(parse_recipe(near_only), cache, tmp_path / "near")
    sizes = both.term_sizes
    assert sizes["distillation"] == near.term_sizes["distillation"]
    assert sizes["distillation#2"] == far.term_sizes["distillation"] != sizes["distillation"]
    label = "affinity_contrast@block2"
    assert sizes[label] == far.term_sizes[label]


def test_only_rows_that_every_teacher_could_read_are_used(cache: Any, other: Any) -> None:
    source = Instructors({"near": cache, "far": other})
    assert set(np.flatnonzero(~source.valid)) == {3, 7}
    batch = next(Loader(source, ("near/logits", "far/logits", "far/layer2/mst"), 64).in_order())
    assert len(batch.rows) == 59
    assert set(batch.at("near")) == {"labels", "logits"}
    assert set(batch.at("far/layer2")) == {"labels", "mst"}
    assert np.array_equal(batch.at("near")["logits"], -batch.at("far")["logits"])


def test_the_first_teacher_gives_the_pixels(cache: Any, other: Any) -> None:
    other.mean = (0.0, 0.0, 0.0)
    other.arrays["images"] = 255 - other.arrays["images"]
    source = Instructors({"near": cache, "far": other})
    assert (source.mean, source.key) == (cache.mean, f"{cache.key}+{other.key}")
    assert np.array_equal(source.read("images", 0, 5), cache.arrays["images"][:5])


def test_caches_that_do_not_line_up_are_refused(cache: Any, other: Any) -> None:
    other.rows_key = "those rows"
    with pytest.raises(CacheError, match="teachers 'near' and 'far' must be cached over the same"):
        Instructors({"near": cache, "far": other})
    other.rows_key = cache.rows_key
    other.labels[11] = (other.labels[11] + 1) % 3
    with pytest.raises(CacheError, match=r"same labels, got \d and \d at row 11"):
        Instructors({"near": cache, "far": other})


def test_a_teacher_without_a_cache_is_named(
    cache: Any, two: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="got none for far"):
        train(parse_recipe(two), {"near": cache}, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"each teacher \(near, far\), got one"):
        train(parse_recipe(two), cache, tmp_path / "run")


def test_names_carry_the_teacher_only_where_there_are_several(
    two: dict[str, Any], cache: Any
) -> None:
    assert target_names(parse_recipe(two)) == (
        "near/logits", "far/layer2/mst", "far/layer2/affinity.r2", "far/logits",
    )  # fmt: skip
    two["teacher"], two["loss"] = two["teacher"][1:], [two["loss"][2]]
    assert target_names(parse_recipe(two)) == ("layer2/mst", "layer2/affinity.r2")
    assert as_source({"far": cache}, ("far",)) is cache
