"""What the [train] table can ask for: each option does what it says, and resumes exactly."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from geocache.errors import ConfigError
from geocache.student_train import Progress, evaluate_run, load_student, parse_recipe, train
from geocache.student_train import read_records as records_of


def _last(out: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(out / "last.pt", weights_only=True)
    return state


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _distance(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    return max(float((a[n].double() - b[n].double()).abs().max()) for n in a)


def _run(cache: Any, tables: dict[str, Any], out: Path, **options: Any) -> dict[str, Any]:
    tables = copy.deepcopy(tables)
    tables["train"] |= options
    train(parse_recipe(tables), copy.deepcopy(cache), out)
    return _last(out)


class _StopAt(Progress):
    def __init__(self, epoch: int, step: int) -> None:
        self._at = (epoch, step)

    def stepped(self, *, epoch: int, step: int, n_steps: int, loss: float) -> None:
        if (epoch, step) == self._at:
            raise KeyboardInterrupt


OPTIONS: list[dict[str, Any]] = [
    {"precision": "bf16"},
    {"channels_last": True, "clip_norm": 0.5},
    {"accumulate": 2, "ema": 0.9},
    {"milestones": [], "lr_schedule": "cosine", "warmup_epochs": 1},
    {"milestones": [], "lr_schedule": "one_cycle", "optimizer": "adam"},
    {"deterministic": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options))
@pytest.mark.parametrize("save_every", [None, 1])
def test_every_option_changes_the_training_and_resumes_exactly(
    cache: Any, tables: dict[str, Any], tmp_path: Path, options: dict[str, Any],
    save_every: int | None,
) -> None:  # fmt: skip
    """Cut within an epoch and taken up: weights, average, optimiser and log are as in one run."""
    plain = _run(cache, tables, tmp_path / "plain")
    tables["train"] |= options | {"save_every": save_every}
    recipe = parse_recipe(tables)
    whole = train(recipe, cache, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, cache, tmp_path / "cut", progress=_StopAt(2, 3))
    position = _last(tmp_path / "cut")["position"]
    assert (position is None) == (save_every is None)
    train(recipe, cache, tmp_path / "cut", resume=True)
    a, b = _last(whole.out), _last(tmp_path / "cut")
    assert _same(a["model"], b["model"])
    assert ("ema" in options) == (a["raw_model"] is not None)
    if "ema" in options:
        assert _same(a["raw_model"], b["raw_model"])
    momenta = [list(state["optimizer"]["state"].values()) for state in (a, b)]
    assert all(_same_numbers(x, y) for x, y in zip(*momenta, strict=True))
    logs = [records_of(out)[1:-1] for out in (whole.out, tmp_path / "cut")]
    for ours, theirs in zip(*logs, strict=True):
        assert _without_times(ours) == _without_times(theirs)
    if "deterministic" not in options:
        assert not _same(plain["model"], a["model"])


def _same_numbers(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])) for k in a)


def _without_times(record: dict[str, Any]) -> dict[str, Any]:
    times = ("elapsed_s", "step_s", "rows_per_s", "data_wait")
    return {name: value for name, value in record.items() if name not in times}


def test_a_run_cut_within_an_epoch_is_taken_up_at_the_step_that_was_saved(
    cache: Any, tables: dict[str, Any], tmp_path: Path
) -> None:
    class Count(Progress):
        steps: list[tuple[int, int]] = []  # noqa: RUF012

        def stepped(self, *, epoch: int, step: int, n_steps: int, loss: float) -> None:
            self.steps.append((epoch, step))

    tables["train"] |= {"save_every": 2, "epochs": 2, "batch_size": 8}  # 6 batches an epoch
    recipe = parse_recipe(tables)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, cache, tmp_path, progress=_StopAt(2, 5))
    assert _last(tmp_path)["position"]["step"] == 4
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    assert best["epoch"] == 1 and not _same(best["model"], _last(tmp_path)["model"])
    train(recipe, cache, tmp_path, resume=True, progress=(count := Count()))
    assert count.steps == [(2, 5), (2, 6)]


def test_a_streamed_run_that_is_taken_up_reads_only_what_is_left(
    cache: Any, tables: dict[str, Any], tmp_path: Path
) -> None:
    class Counted:
        """The cache, and the logits that were read of it: what every batch has."""

        def __init__(self) -> None:
            self.rows: list[int] = []

        def __getattr__(self, name: str) -> Any:
            return getattr(cache, name)

        def read(self, name: str, start: int, stop: int, view: int = 0) -> Any:
            self.rows += range(start, stop) if name == "logits" else ()
            return cache.read(name, start, stop, view)

    cache.group = 8
    tables["data"] |= {"mode": "stream", "buffer_rows": 8}
    tables["train"] |= {"save_every": 2, "epochs": 1, "batch_size": 8, "calibration_batches": 1}
    recipe = parse_recipe(tables)
    whole, rest = Counted(), Counted()
    whole_run = train(recipe, whole, tmp_path / "whole")  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        train(recipe, cache, tmp_path / "cut", progress=_StopAt(1, 5))
    train(recipe, rest, tmp_path / "cut", resume=True)  # type: ignore[arg-type]
    assert _same(_last(whole_run.out)["model"], _last(tmp_path / "cut")["model"])
    # Four batches of six were done; checking the pairs reads a row group or two each time.
    assert len(whole.rows) > 60 and len(rest.rows) < 40


def test_accumulated_batches_take_the_larger_batchs_steps(
    cache: Any, tables: dict[str, Any], tmp_path: Path
) -> None:
    """48 rows, 16 + 16 + 16: steps of 32 and of 16 rows, as with batches of 32; float32 sums."""
    tables["student"] = {"model": "simple_cnn"}
    tables["loss"] = tables["loss"][:2]
    tables["data"]["fraction"] = 0.95  # 57 rows, 46 to train: a short last batch, too
    tables["train"]["epochs"] = 2
    large = _run(cache, tables, tmp_path / "large", batch_size=32)
    small = _run(cache, tables, tmp_path / "small", batch_size=16, accumulate=2)
    alone = _run(cache, tables, tmp_path / "alone", batch_size=16)
    assert not any("running" in name for name in large["model"])  # no batch norm
    assert _distance(large["model"], small["model"]) < 1e-6
    assert _distance(large["model"], alone["model"]) > 1e-3


def test_averaged_weights_are_what_is_evaluated_saved_and_loaded(
    cache: Any, tables: dict[str, Any], tmp_path: Path
) -> None:
    tables["train"] |= {"ema": 0.9, "epochs": 3}
    result = train(parse_recipe(tables), cache, tmp_path)
    state = _last(tmp_path)
    assert _distance(state["model"], state["raw_model"]) > 1e-3
    student, _ = load_student(tmp_path, "last")
    assert _same(student.state_dict(), state["model"])
    assert evaluate_run(tmp_path, cache).accuracy == result.test_accuracy
    assert evaluate_run(tmp_path, cache, which="last").accuracy == result.last_test_accuracy
    record = records_of(tmp_path)[-2]
    assert record["test_loss"] != record["raw_test_loss"]
    plain = _run(cache, tables, tmp_path / "plain", ema=None)
    assert _same(plain["model"], state["raw_model"])  # averaging watches, and changes nothing


def test_clipping_bounds_the_gradient_and_a_wide_bound_changes_nothing(
    cache: Any, tables: dict[str, Any], tmp_path: Path
) -> None:
    tables["train"] |= {
        "epochs": 1,
        "batch_size": 64,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "lr": 1.0,
    }
    tables["train"]["milestones"] = []
    free = _run(cache, tables, tmp_path / "free", lr=1e-30)  # the initial weights
    tight = _run(cache, tables, tmp_path / "tight", clip_norm=1e-3)
    names = [n for n in free["model"] if "running" not in n and "num_batches" not in n]
    moved = sum(float((free["model"][n] - tight["model"][n]).square().sum()) for n in names) ** 0.5
    assert moved == pytest.approx(1e-3, rel=1e-2)
    wide = _run(cache, tables, tmp_path / "wide", clip_norm=1e9)
    assert _same(wide["model"], _run(cache, tables, tmp_path / "without")["model"])


def test_bf16_trains_near_float32_with_weights_in_float32(
    cache: Any, tables: dict[str, Any], tmp_path: Path
) -> None:
    exact, mixed = (
        _run(cache, tables, tmp_path / precision, precision=precision)
        for precision in ("float32", "bf16")
    )
    assert all(v.dtype in (torch.float32, torch.int64) for v in mixed["model"].values())
    first, second = (records_of(tmp_path / p)[1]["loss"] for p in ("float32", "bf16"))
    assert second != first and second == pytest.approx(first, rel=0.02)
    assert 0 < _distance(exact["model"], mixed["model"]) < 0.1


def test_fp16_needs_cuda(cache: Any, tables: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be 'float32' or 'bf16' on cpu, got 'fp16'"):
        _run(cache, tables, tmp_path, precision="fp16")


def test_deterministic_algorithms_are_asked_for_and_put_back(
    cache: Any, tables: dict[str, Any], tmp_path: Path
) -> None:
    seen = []

    class Look(Progress):
        def stepped(self, *, epoch: int, step: int, n_steps: int, loss: float) -> None:
            seen.append(torch.are_deterministic_algorithms_enabled())

    tables["train"] |= {"epochs": 1, "deterministic": True}
    train(parse_recipe(tables), cache, tmp_path, progress=Look())
    assert seen and all(seen) and not torch.are_deterministic_algorithms_enabled()


def test_a_longer_training_is_another_one_where_the_rate_depends_on_its_length(
    cache: Any, tables: dict[str, Any], tmp_path: Path
) -> None:
    tables["train"] |= {"lr_schedule": "cosine", "milestones": [], "epochs": 2}
    train(parse_recipe(tables), cache, tmp_path)
    tables["train"]["epochs"] = 3
    with pytest.raises(ConfigError, match=r"another \[train\]. Only train.device"):
        train(parse_recipe(tables), cache, tmp_path, resume=True)


def test_a_run_from_before_an_option_existed_is_taken_up(
    cache: Any, tables: dict[str, Any], tmp_path: Path
) -> None:
    tables["train"]["epochs"] = 1
    train(parse_recipe(tables), cache, tmp_path)
    state = _last(tmp_path)
    for name in ("position", "raw_model", "scaler"):
        del state[name]
    state["recipe"] = state["recipe"].replace('"ema":null,', "").replace('"accumulate":1,', "")
    assert "accumulate" not in state["recipe"]
    torch.save(state, tmp_path / "last.pt")
    tables["train"]["epochs"] = 2
    assert train(parse_recipe(tables), cache, tmp_path, resume=True).n_epochs == 2
