"""`geocache build`: what it computes, what it leaves alone, and how it says no."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import users_own
from PIL import Image

from geocache.data.catalog import list_caches


def test_a_second_build_finds_the_cache_and_does_nothing(build: Any, tmp_path: Path) -> None:
    """Same key, no row built, no file touched."""
    first = build()
    assert first.code == 0 and "40 built" in first.out
    files = {f: f.stat().st_mtime_ns for f in (tmp_path / "store").rglob("*") if f.is_file()}
    second = build()
    assert second.code == 0 and "nothing to do" in second.out
    assert second.out.splitlines()[0] == first.out.splitlines()[0]
    again = {f: f.stat().st_mtime_ns for f in (tmp_path / "store").rglob("*") if f.is_file()}
    assert again == files


def test_one_more_target_computes_that_one(build: Any, tmp_path: Path) -> None:
    """The logits' objects stay as they are, the new target joins the same cache."""
    build()
    (entry,) = list_caches(tmp_path / "store")
    (logits,) = [f for f in (entry.path / "logits").rglob("*") if f.is_file()]
    before = logits.stat().st_mtime_ns
    plan = json.loads(
        build("--target", "logits", "--target", "mst@layer2", "--dry-run", "--json").out
    )
    assert plan["n_bytes_planned"] == 40 * 16
    assert build("--target", "logits", "--target", "mst@layer2").code == 0
    assert logits.stat().st_mtime_ns == before
    assert [e.key for e in list_caches(tmp_path / "store")] == [entry.key]


def test_a_dry_run_writes_nothing(build: Any, tmp_path: Path) -> None:
    """Neither cache nor store appears."""
    result = build("--dry-run")
    assert result.code == 0 and "40 of 1,437" in result.out
    assert not (tmp_path / "store").exists()


def test_a_limit_grows_within_one_cache(build: Any) -> None:
    """The first 40 rows, then 60, under one key."""
    first = json.loads(build("--json").out)
    more = json.loads(build("--dataset", "digits", "--limit", 60, "--json").out)
    assert (first["n_asked"], more["n_asked"]) == (40, 60)
    assert first["key"] == more["key"]


def test_dask_writes_what_the_serial_executor_writes(build: Any, tmp_path: Path) -> None:
    """The same key and the same logits, byte for byte, from a local cluster of one worker."""
    serial, dask = tmp_path / "serial", tmp_path / "dask"
    assert build("--store", serial, "--threads", 1).code == 0
    assert build("--store", dask, "--executor", "dask", "--workers", 1, "--threads", 1).code == 0
    objects = [
        sorted(f.relative_to(store) for f in store.rglob("logits/c/**/*") if f.is_file())
        for store in (serial, dask)
    ]
    assert objects[0] == objects[1] and objects[0]
    for name in objects[0]:
        assert (serial / name).read_bytes() == (dask / name).read_bytes()


def test_a_recipe_builds_what_its_losses_need(run: Any, recipe: Path) -> None:
    """No more and no less; and both splits' images."""
    assert run("build", recipe, "--executor", "serial").code == 0
    (about,) = json.loads(run("ls", "--json").out)
    assert about["targets"] == ["layer2/affinity.r2", "layer2/mst"]
    assert len(about["eval_splits"]) == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--teacher", "resnet21"], ["resnet21", "resnet20"]),
        (["--target", "mst@layer9"], ["layer9", "geocache layers"]),
        (["--target", "mts@layer2"], ["mts", "Did you mean 'mst'?"]),
        (["--target", "affinity:radus=2@layer2"], ["radus", "Did you mean 'radius'?"]),
        (["--target", "mst"], ["must name a layer"]),
        (["--dataset", "digitz"], ["digitz", "digits"]),
        (["--dataset", "imagefolder:nowhere"], ["nowhere"]),
        (["--dataset", "cifar10:nowhere"], ["nowhere"]),
        (["--weights", "no.pt"], ["no.pt"]),
        (["--teacher-option", "depht=8"], ["depht", "Did you mean 'depth'?"]),
        (["--dataset-option", "m=3"], ["'m'"]),
        (["--store", "gs://bucket"], ["gs://bucket", "s3://BUCKET/PREFIX"]),
        (["--device", "cuda:99"], ["cuda:99"]),
    ],
)
def test_bad_values_are_one_line(build: Any, flags: list[str], words: list[str]) -> None:
    """Exit code 1, one line that names the value and, where one is near, the right one."""
    result = build(*flags)
    assert (result.code, result.out) == (1, "")
    assert all(word in result.error for word in words)


@pytest.mark.parametrize(
    "args",
    [
        ["small.toml", "--dataset", "digits"],
        ["small.toml", "--target", "logits"],
        ["--dataset", "digits", "--teacher", "resnet20"],
        ["--teacher", "resnet20", "--target", "logits"],
        ["--mean", "1,2", "small.toml"],
        ["--size", "0", "small.toml"],
        ["--teacher-option", "depth", "small.toml"],
        ["--executor", "spark", "small.toml"],
        ["--scheduler", "tcp://x:1", "--workers", "2", "small.toml"],
        ["--dataset", "digits", "--set", "train.epochs=1"],
    ],
)
def test_wrong_usage_is_exit_code_2(run: Any, recipe: Path, args: list[str]) -> None:
    """The usage line is shown and nothing is computed."""
    result = run("build", *args)
    assert result.code == 2 and "Usage: geocache build" in result.err


def test_a_checkpoint_of_another_model_is_refused(build: Any, tmp_path: Path) -> None:
    """The keys that are missing and those that are too many are named."""
    torch.save({"state_dict": {"module.other.weight": torch.zeros(2)}}, tmp_path / "other.pt")
    result = build("--weights", "other.pt")
    assert result.code == 1
    assert "conv1.weight" in result.error and "other.weight" in result.error


def test_an_empty_folder_is_named(build: Any, tmp_path: Path) -> None:
    """Not one class folder in it."""
    (tmp_path / "empty").mkdir()
    result = build("--dataset", "imagefolder:empty")
    assert result.code == 1 and "empty" in result.error


def test_an_undecodable_image_is_named_or_left_out(build: Any, pictures: Path) -> None:
    """Without --skip-bad its rows fail and say why; with it, its row is not valid."""
    (pictures / "dog" / "3.png").write_bytes(b"no picture")
    data = ("--dataset", f"imagefolder:{pictures}")
    failed = build(*data)
    assert failed.code == 1 and "rows 0 to 7 were not built" in failed.error
    assert "3.png" in failed.error and "--skip-bad" in failed.error
    built = build(*data, "--skip-bad", "--json")
    assert built.code == 0
    report = json.loads(built.out)
    assert len(report["bad"]) == 1 and "3.png" in str(report["bad"])


def test_images_of_two_sizes_need_a_size(build: Any, pictures: Path) -> None:
    """The error names the option that the second call uses."""
    Image.new("RGB", (12, 9)).save(pictures / "cat" / "large.png")
    data = ("--dataset", f"imagefolder:{pictures}")
    result = build(*data)
    assert result.code == 1
    assert "large.png" in result.error and "--size" in result.error
    assert build(*data, "--size", "8").code == 0


def test_one_failing_row_group_is_reported_and_later_made_up_for(
    build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other group is built; the next run does only the one that failed."""
    monkeypatch.setattr(users_own, "BROKEN_AT", {7})
    data = ("--dataset", "users_own:fragile", "--json")
    torn = build(*data)
    assert torn.code == 1
    assert "were not built" in torn.error and "picture 7 is torn" in torn.error
    report = json.loads(torn.out)
    (failure,) = report["failures"]
    assert {report["rows_built"], failure["stop"] - failure["start"]} == {2048, 12}
    monkeypatch.setattr(users_own, "BROKEN_AT", set())
    mended = json.loads(build(*data).out)
    assert mended["rows_built"] == failure["stop"] - failure["start"]
    assert json.loads(build(*data).out)["n_units"] == 0


def test_ctrl_c_keeps_what_was_committed(
    build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 130 and one line that says how to go on; going on gives a whole cache."""
    monkeypatch.setattr(users_own, "INTERRUPT_AT", {11})
    data = ("--dataset", "users_own:fragile", "--dataset-option", "n=50")
    result = build(*data)
    assert result.code == 130
    assert "kept" in result.error and "same command" in result.error
    monkeypatch.setattr(users_own, "INTERRUPT_AT", set())
    assert "50 built" in build(*data).out


def test_deriving_in_a_named_cache_needs_neither_teacher_nor_data(
    run: Any, build: Callable[..., Any]
) -> None:
    built = json.loads(build("--target", "activation@layer2", "--json").out)
    key = built["key"]
    more = run("build", "--cache", key, "--target", "attention@layer2", "--json")
    assert json.loads(more.out)["derived"] == ["layer2/attention"]
    refused = run("build", "--cache", key, "--target", "mst@layer3")
    assert refused.code == 1 and "the teacher must run for layer3/mst" in refused.error
    assert run("build", "--cache", key, "--target", "mst@layer2", "--dataset", "digits").code == 2
    again = build("--target", "gram@layer2")
    assert "teacher" in again.out and "derived" in again.out and "layer2/gram" in again.out


def test_views_are_built_from_flags_and_from_a_recipe(
    run: Any, build: Callable[..., Any], recipe: Path
) -> None:
    flags = ("--views", 2, "--view-policy", "crop_flip:pad=1", "--json")
    built = json.loads(build(*flags).out)
    shown = json.loads(run("show", built["key"], "--json").out)
    assert shown["views"] == {"policy": "crop_flip", "parameters": {"pad": 1, "seed": 0}}
    (array,) = [array for array in shown["arrays"] if array["name"] == "logits"]
    assert array["shape"][0] == 2
    views = ('data.views={policy = "crop_flip", pad = 1, count = 2}',)
    assert run("build", recipe, "--set", *views, "--executor", "serial").code == 0
    assert run("train", recipe, "--set", *views).code == 0
    refused = run("train", recipe, "--set", views[0].replace("pad = 1", "pad = 2"), "--out", "two")
    assert refused.code == 1 and "must be built before training" in refused.error
    named = run("train", recipe, "--out", "three", "--cache", built["key"])
    assert named.code == 1 and "views must be those that the teacher saw" in named.error


def test_views_that_mix_go_from_flags_through_a_training(
    run: Any, build: Callable[..., Any], recipe: Path
) -> None:
    flags = ("--views", 2, "--view-policy", "mixup:alpha=0.5,base=crop_flip")
    refused = build(*flags)
    assert refused.code == 1 and "limit must be a multiple of 16 rows" in refused.error
    built = json.loads(build(*flags, "--limit", 48, "--json").out)
    shown = json.loads(run("show", built["key"], "--json").out)
    assert shown["views"]["policy"] == "mixup"
    assert shown["views"]["parameters"]["base"] == {"policy": "crop_flip", "pad": 4}
    base = '{policy = "crop_flip", pad = 4}'
    views = f'data.views={{policy = "mixup", alpha = 0.5, base = {base}, count = 2}}'
    whole = ("--set", views, "--set", "data.limit=64")
    assert run("train", recipe, "--build", *whole).code == 0
    cut = run("train", recipe, "--set", views, "--out", "cut")
    assert cut.code == 1 and "data.limit must be a multiple of 16" in cut.error
