"""Every registered loss, in one recipe, from a real cache built for exactly that recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from geocache.data.cache import Cache
from geocache.data.datasets import open_dataset
from geocache.data.images import ImageSpec
from geocache.pipeline import BuildRequest, build
from geocache.student_train import loss_names, parse_recipe, required_targets, train
from geocache.targets import target_from_name

PAIR = {"student": "block2", "teacher": "block2"}
LOSSES: list[dict[str, Any]] = [
    {"name": "cross_entropy"},
    {"name": "distillation", "share": 0.2},
    {"name": "affinity_contrast", **PAIR, "radius": 2, "share": 0.2},
    {"name": "affinity_contrast", **PAIR, "k": 3, "share": 0.2},
    {"name": "attention_transfer", **PAIR, "weight": 10.0},
    {"name": "contrastive", "student": "fc1", "weight": 0.01},
    {"name": "hint", **PAIR, "share": 0.2},
    {"name": "hybrid_kernel", **PAIR, "schedule": {"kind": "exponential", "gamma": 0.5}},
    {"name": "metric_transfer", **PAIR, "weight": 0.1},
    {"name": "neighbouring_pattern", **PAIR, "radius": 2, "weight": 0.1},
    {"name": "neighbouring_pattern", **PAIR, "weight": 0.1},
    {"name": "neuron_selectivity", **PAIR, "weight": 1.0},
    {"name": "pkt", "student": "fc1", "teacher": "fc1", "weight": 1.0},
    {"name": "distillation", "top": 3, "temperature": 4, "share": 0.2},
    {"name": "hint", **PAIR, "dtype": "int8", "share": 0.2},
]


def _tables(epochs: int) -> dict[str, Any]:
    return {
        "data": {"dataset": "digits", "size": 32},
        "teacher": {"model": "cnn1"},
        "student": {"model": "cnn1_l"},
        "loss": LOSSES,
        "train": {"epochs": epochs, "batch_size": 64, "lr": 0.01, "seed": 3, "validation": 0.5},
    }


def test_every_loss_trains_and_resumes_exactly(tmp_path: Path) -> None:
    own = {"binary_cross_entropy", "mean_squared_error"}  # tests/student_train/test_own_labels.py
    assert {table["name"] for table in LOSSES} | own == set(loss_names())
    recipe = parse_recipe({**_tables(2), "data": {"dataset": "digits", "size": 32, "limit": 256}})
    names = required_targets(recipe)["teacher"]
    built = build(
        BuildRequest(
            dataset=open_dataset("digits"),
            evaluation=open_dataset("digits", split="test"),
            image=ImageSpec((32, 32)),
            model="cnn1",
            targets=tuple(target_from_name(name) for name in names),
            store=tmp_path / "store",
            limit=256,
            executor="serial",
        )
    )
    assert not built.failures
    cache = Cache(built.path)
    assert set(cache.target_names()) == set(names) >= {"logits", "logits.top3.t4"}
    whole = train(recipe, cache, tmp_path / "whole")
    tables = _tables(1)
    tables["data"]["limit"] = 256
    train(parse_recipe(tables), cache, tmp_path / "parts")
    train(recipe, cache, tmp_path / "parts", resume=True)
    states = [torch.load(tmp_path / n / "last.pt", weights_only=True) for n in ("whole", "parts")]
    adapters = [state["adapters"] for state in states]
    assert set(adapters[0]) == {"6.weight", "6.bias", "14.weight", "14.bias"}  # the hints'
    for part in ("model", "adapters"):
        for name, value in states[0][part].items():
            assert torch.equal(value, states[1][part][name]), name
    fresh = states[0]["epochs"]
    assert fresh[0]["weights"]["hybrid_kernel@block2"] == 1.0
    assert fresh[1]["weights"]["hybrid_kernel@block2"] == 0.5
    assert whole.n_epochs == 2
    options = {"precision": "bf16", "channels_last": True, "accumulate": 2, "ema": 0.9}
    tables["train"] |= options | {"clip_norm": 5.0, "deterministic": True}
    mixed = train(parse_recipe(tables), cache, tmp_path / "mixed")
    assert mixed.term_sizes == pytest.approx(dict(whole.term_sizes), rel=0.1, abs=1e-4)
