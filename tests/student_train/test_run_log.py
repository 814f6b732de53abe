"""Logs beside the JSON lines, details of evaluations, and what watchers are told."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geocache.errors import ConfigError
from geocache.student_train import Progress, parse_recipe, read_records, train
from geocache.student_train.measure import measure, write_confusion
from geocache.student_train.run_log import RunLog, flat


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_holds_what_the_log_does(
    cache: Any, tables: dict[str, Any], tmp_path: Path
) -> None:
    tables["train"] |= {"epochs": 3, "eval_every": 2}
    train(parse_recipe(tables), cache, tmp_path)
    epochs = [record for record in read_records(tmp_path) if record["event"] == "epoch"]
    rows = _rows(tmp_path / "metrics.csv")
    assert [{k: float(v) for k, v in row.items() if v} for row in rows] == [flat(e) for e in epochs]
    assert rows[0]["terms/affinity_contrast@block2"] and not rows[0]["test_accuracy"]
    assert rows[1]["test_accuracy"]


def test_details_by_hand(tmp_path: Path) -> None:
    """Seven classes: a row right, one in the top 5, one in the last place, one without a label."""
    logits = torch.tensor([[9.0, 8, 7, 6, 5, 4, 3]]).repeat(4, 1)
    batches = [(logits[:3], torch.tensor([0, 4, 6])), (logits[3:], torch.tensor([-1]))]
    found = measure(torch.nn.Identity(), batches, details=True)
    assert (found.accuracy, found.top5_accuracy, found.n_rows) == (1 / 3, 2 / 3, 3)
    assert found.class_accuracy == (1.0, None, None, None, 0.0, None, 0.0)
    assert [row[0] for row in found.confusion] == [1, 0, 0, 0, 1, 0, 1]
    assert np.sum(found.confusion) == 3
    write_confusion(tmp_path / "c.csv", found, tuple("abcdefg"))
    assert (tmp_path / "c.csv").read_text().splitlines()[5] == "e,1,0,0,0,0,0,0"
    plain = measure(torch.nn.Identity(), batches)
    assert plain.confusion == () and plain.accuracy == found.accuracy


def test_a_run_ends_with_its_classes(cache: Any, tables: dict[str, Any], tmp_path: Path) -> None:
    result = train(parse_recipe(tables), cache, tmp_path)
    end = read_records(tmp_path)[-1]
    assert list(end["class_accuracy"]) == ["a", "b", "c"] and end["top5_accuracy"] is None
    rows = _rows(tmp_path / "confusion.csv")
    counts = {row["class"]: {k: int(v) for k, v in row.items() if k != "class"} for row in rows}
    right = sum(counts[name][name] for name in "abc")
    assert right / sum(sum(c.values()) for c in counts.values()) == result.test_accuracy
    assert end["class_accuracy"]["b"] == counts["b"]["b"] / sum(counts["b"].values())


def test_watchers_are_told_rates_and_waiting(
    cache: Any, tables: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that moves 1 s when it is read: the batches' share is what was read around them."""
    told: list[Mapping[str, float]] = []

    class Watch(Progress):
        def measured(self, rates: Mapping[str, float]) -> None:
            told.append(rates)

    ticks = itertools.count()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    tables["train"]["epochs"] = 1
    train(parse_recipe(tables), cache, tmp_path, progress=Watch())
    # An epoch of 3 batches: one reading at the start, three a step; 1 s of a step's 3 is the wait.
    assert [rates["rows_per_s"] for rates in told] == pytest.approx([16 / 3, 32 / 6, 48 / 9])
    assert [rates["data_wait"] for rates in told] == pytest.approx([1 / 3] * 3)
    assert read_records(tmp_path)[1]["data_wait"] == pytest.approx(4 / 12)


def test_tensorboard_that_is_not_installed_is_one_line(
    cache: Any, tables: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    tables["train"]["tensorboard"] = True
    with pytest.raises(ConfigError, match=r"TensorBoard installed.*geocache\[tensorboard\]"):
        train(parse_recipe(tables), cache, tmp_path)
    assert not list(tmp_path.iterdir())


def test_tensorboard_events_hold_the_numbers(
    cache: Any, tables: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tables["train"] |= {"epochs": 2, "tensorboard": True}
    train(parse_recipe(tables), cache, tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    epochs = [record for record in read_records(tmp_path) if record["event"] == "epoch"]
    points = events.Scalars("terms/cross_entropy")
    assert [p.step for p in points] == [1, 2]
    assert [p.value for p in points] == pytest.approx([e["terms"]["cross_entropy"] for e in epochs])


def test_a_log_that_another_writes_is_left_alone(tables: dict[str, Any], tmp_path: Path) -> None:
    with RunLog(tmp_path, parse_recipe(tables).train, writes=False) as log:
        log.append({"event": "epoch", "epoch": 1})
    assert not list(tmp_path.iterdir())
