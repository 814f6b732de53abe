"""The trainer as a whole: it learns, it is exact, and it resumes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from geocache.errors import (
    ConfigError,
)
from geocache.student_train import (
    Progress,
    Recipe,
    evaluate_run,
    load_student,
    parse_recipe,
    read_records,
    train,
)


def _last(out: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(out / "last.pt", weights_only=True)
    return state


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def test_a_run_learns_and_leaves_what_it_promises(
    cache: Any, recipe: Recipe, tmp_path: Path
) -> None:
    state = torch.random.get_rng_state()
    result = train(recipe, {"teacher": cache}, tmp_path / "run")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert {p.name for p in result.out.iterdir()} == {
        "best.pt", "last.pt", "metrics.jsonl", "metrics.csv", "recipe.json", "curves.png",
        "confusion.csv",
    }  # fmt: skip
    start, *epochs, end = read_records(result.out)
    assert [r["event"] for r in (start, *epochs, end)] == ["start"] + 4 * ["epoch"] + ["end"]
    assert start["n_train"] == 48 and start["n_validation"] == 12  # 60 valid rows, a fifth held out
    assert epochs[-1]["loss"] < epochs[0]["loss"]
    assert [r["lr"] for r in epochs] == pytest.approx([0.05, 0.05, 0.005, 0.005])
    weighted = sum(
        start["terms"][name]["weight"] * mean for name, mean in epochs[0]["terms"].items()
    )
    assert epochs[0]["loss"] == pytest.approx(weighted)
    assert end["best_epoch"] == result.best_epoch
    best = max(epochs, key=lambda r: r["validation_accuracy"])
    assert result.best_epoch == best["epoch"] and result.test_accuracy == best["test_accuracy"]
    assert evaluate_run(result.out, cache).accuracy == result.test_accuracy
    assert evaluate_run(result.out, cache, which="last").accuracy == result.last_test_accuracy
    assert (result.out / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_a_share_is_met_at_the_start_and_frozen(cache: Any, recipe: Recipe, tmp_path: Path) -> None:
    train(recipe, cache, tmp_path / "run")
    start = read_records(tmp_path / "run")[0]
    terms = start["terms"]
    assert terms["affinity_contrast@block2"]["weighted"] == pytest.approx(
        0.5 * start["cross_entropy"]
    )
    assert terms["cross_entropy"]["size"] == pytest.approx(start["cross_entropy"])
    assert terms["distillation"]["weight"] == 0.5
    saved = _last(tmp_path / "run")["calibration"]["weights"]
    assert saved == {name: term["weight"] for name, term in terms.items()}


def test_recipes_start_alike_and_see_the_same_batches(
    cache: Any, tables: dict[str, Any], tmp_path: Path
) -> None:
    class Stop(Progress):
        def started(self, record: Mapping[str, Any]) -> None:
            raise KeyboardInterrupt

    initial = []
    for number, losses in enumerate((tables["loss"][:1], tables["loss"])):
        recipe = parse_recipe({**tables, "loss": losses})
        with pytest.raises(KeyboardInterrupt):
            train(recipe, cache, tmp_path / str(number), progress=Stop())
        initial.append(_last(tmp_path / str(number))["model"])
    assert _same(initial[0], initial[1])
    # Sizes are measured in training mode; batch norm must not remember it.
    assert int(initial[1]["block1.1.num_batches_tracked"]) == 0
    assert not initial[1]["block1.1.running_mean"].any()

    # A term of weight 0 changes nothing at all, dropout and calibration included.
    plain = train(parse_recipe({**tables, "loss": tables["loss"][:1]}), cache, tmp_path / "plain")
    for term in tables["loss"][1:]:
        term.pop("share", None)
        term["weight"] = 0.0
    muted = train(parse_recipe(tables), cache, tmp_path / "muted")
    assert _same(_last(plain.out)["model"], _last(muted.out)["model"])


def test_seeds_differ(cache: Any, tables: dict[str, Any], tmp_path: Path) -> None:
    tables["train"]["epochs"] = 1
    models = []
    for call, seed in enumerate((0, 0, 1)):
        torch.manual_seed(call)  # what the caller drew before must not matter
        tables["train"]["seed"] = seed
        out = tmp_path / str(len(models))
        train(parse_recipe(tables), cache, out)
        models.append(_last(out)["model"])
    assert _same(models[0], models[1]) and not _same(models[0], models[2])


def test_the_students_seed_decides_its_initial_weights(
    cache: Any, tables: dict[str, Any], tmp_path: Path
) -> None:
    heads = []
    tables["train"] |= {"epochs": 1, "lr": 1e-30}
    for number, (seed, own) in enumerate(((0, None), (1, 0), (1, None))):
        tables["train"]["seed"], tables["student"]["seed"] = seed, own
        train(parse_recipe(tables), cache, tmp_path / str(number))
        heads.append(_last(tmp_path / str(number))["model"]["head.weight"])
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("stop", [(0, 1), (1, 3), (3, 1)])
def test_a_resumed_run_ends_like_one_never_interrupted(
    cache: Any, tables: dict[str, Any], tmp_path: Path, optimizer: str, stop: tuple[int, int]
) -> None:
    class StopAt(Progress):
        def stepped(self, *, epoch: int, step: int, n_steps: int, loss: float) -> None:
            if (epoch - 1, step) == stop:
                raise KeyboardInterrupt

    tables["train"]["optimizer"] = optimizer
    recipe = parse_recipe(tables)
    whole = train(recipe, cache, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, cache, tmp_path / "cut", progress=StopAt())
    assert _last(tmp_path / "cut")["epoch"] == stop[0]
    assert load_student(tmp_path / "cut", "last")[1]["epoch"] == stop[0]
    resumed = train(recipe, cache, tmp_path / "cut", resume=True)
    a, b = _last(whole.out), _last(resumed.out)
    for key in ("model", "optimizer", "calibration", "best_epoch", "best_accuracy"):
        assert _same(a[key], b[key]), key
    best = [torch.load(r.out / "best.pt", weights_only=True)["model"] for r in (whole, resumed)]
    assert _same(*best)
    assert [r.get("epoch") for r in read_records(resumed.out)] == [None, 1, 2, 3, 4, None]


def test_a_crash_between_log_and_checkpoint_is_repaired(
    cache: Any, recipe: Recipe, tmp_path: Path
) -> None:
    class StopAfter(Progress):
        def epoch_done(self, record: Mapping[str, Any]) -> None:
            if record["epoch"] == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, cache, tmp_path, progress=StopAfter())
    with (tmp_path / "metrics.jsonl").open("a") as file:  # epoch 3 logged, its checkpoint not
        file.write(json.dumps({"event": "epoch", "epoch": 3}) + '\n{"event": "epo')
    train(recipe, cache, tmp_path, resume=True)
    assert [r.get("epoch") for r in read_records(tmp_path)] == [None, 1, 2, 3, 4, None]


def test_a_finished_run_can_be_resumed_and_extended(
    cache: Any, tables: dict[str, Any], tmp_path: Path
) -> None:
    train(parse_recipe(tables), cache, tmp_path / "long")
    tables["train"]["epochs"] = 2
    short = train(parse_recipe(tables), cache, tmp_path / "short")
    again = train(parse_recipe(tables), cache, tmp_path / "short", resume=True)
    assert (again.n_epochs, again.test_accuracy) == (2, short.test_accuracy)
    tables["train"]["epochs"] = 4
    train(parse_recipe(tables), cache, tmp_path / "short", resume=True)
    assert _same(_last(tmp_path / "long")["model"], _last(tmp_path / "short")["model"])


def test_resuming_another_recipe_or_cache_is_refused(
    cache: Any, tables: dict[str, Any], tmp_path: Path
) -> None:
    tables["train"]["epochs"] = 1
    recipe = parse_recipe(tables)
    train(recipe, cache, tmp_path)
    with pytest.raises(ConfigError, match=r"out must be a folder without a run, got .*--resume"):
        train(recipe, cache, tmp_path)
    with pytest.raises(ConfigError, match=r"got another \[loss\], \[train\]"):
        changed = {**tables, "loss": tables["loss"][:2], "train": {**tables["train"], "lr": 1.0}}
        train(parse_recipe(changed), cache, tmp_path, resume=True)
    cache.key = "another"
    with pytest.raises(ConfigError, match="cache must be that of the run"):
        train(recipe, cache, tmp_path, resume=True)


def test_select_test_uses_every_row_and_says_so(
    cache: Any, tables: dict[str, Any], tmp_path: Path
) -> None:
    tables["train"] |= {"select": "test", "eval_every": 3}
    result = train(parse_recipe(tables), cache, tmp_path)
    start, *epochs, end = read_records(tmp_path)
    assert (start["n_train"], start["n_validation"]) == (60, 0)
    assert start["select"] == end["select"] == result.select == "test"
    assert [("test_accuracy" in r) for r in epochs] == [False, False, True, True]
    assert result.best_epoch in (3, 4) and result.validation_accuracy is None


def test_limit_trains_on_the_first_rows(cache: Any, tables: dict[str, Any], tmp_path: Path) -> None:
    tables["data"]["limit"] = 32
    cache.built = dict.fromkeys(cache.target_names(), 32)
    train(parse_recipe(tables), cache, tmp_path)
    start = read_records(tmp_path)[0]
    assert start["n_train"] + start["n_validation"] == 31


def test_a_teacher_to_be_is_trained_without_a_cache(tmp_path: Path) -> None:
    tables = {
        "data": {"dataset": "digits", "size": 12, "limit": 200},
        "student": {"model": "tiny_student:build"},
        "loss": [{"name": "cross_entropy"}],
        "train": {"epochs": 2, "device": "cpu", "threads": 1, "batch_size": 32},
    }
    result = train(parse_recipe(tables), None, tmp_path)
    assert result.validation_accuracy is not None and result.test_accuracy is not None
    assert evaluate_run(tmp_path).accuracy == result.test_accuracy
    assert load_student(tmp_path)[1]["mean"] == [0.485, 0.456, 0.406]


def test_without_a_teacher_every_epoch_draws_a_new_view(
    tables: dict[str, Any], tmp_path: Path
) -> None:
    """Online augmentation: more views than any cache has, the same again for the same seed."""
    del tables["teacher"]
    tables["loss"] = tables["loss"][:1]
    tables["data"] |= {
        "limit": 40,
        "views": {"policy": "crop_flip", "pad": 2},
        "options": {"n": 60},
    }
    tables["student"] = {"model": "simple_cnn"}
    first = train(parse_recipe(tables), None, tmp_path / "first")
    again = train(parse_recipe(tables), None, tmp_path / "again")
    assert first.term_sizes == again.term_sizes
    tables["data"]["views"]["offset"] = 1
    other = train(parse_recipe(tables), None, tmp_path / "other")
    assert other.term_sizes != first.term_sizes


def test_a_run_goes_on_with_the_order_that_it_began_with(
    cache: Any, tables: dict[str, Any], tmp_path: Path
) -> None:
    """Streamed and resident rows come in other orders: a resumed run must not change between."""
    tables["train"]["epochs"] = 1
    tables["data"] |= {"mode": "stream", "buffer_rows": 20}
    train(parse_recipe(tables), cache, tmp_path / "run")
    tables["train"]["epochs"] = 2
    tables["data"]["mode"] = "resident"
    with pytest.raises(
        ConfigError, match=r"kept as in the run .* \(stream\).*data.mode = 'stream'"
    ):
        train(parse_recipe(tables), cache, tmp_path / "run", resume=True)
    tables["data"]["mode"] = "stream"
    train(parse_recipe(tables), cache, tmp_path / "run", resume=True)
    whole = train(parse_recipe(tables), cache, tmp_path / "whole")
    states = [torch.load(tmp_path / n / "last.pt", weights_only=True) for n in ("run", "whole")]
    assert whole.n_epochs == 2
    for name, value in states[0]["model"].items():
        assert torch.equal(value, states[1]["model"][name]), name
