"""`--store s3://...`, push and pull: what a user types, against an S3 server on loopback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geocache.data.catalog import list_caches
from geocache.data.objects import open_objects


def contents(address: Any) -> dict[str, bytes]:
    """Every object of a cache but its lock."""
    objects = open_objects(address)
    return {key: objects.get(key) for key, _ in objects.walk() if key != "meta/lock"}


@pytest.mark.parametrize("executor", ["serial", "dask"])
def test_a_build_in_a_bucket_is_the_build_in_a_folder(
    run: Any, build: Any, bucket: str, tmp_path: Path, executor: str
) -> None:
    """Byte for byte; `ls`, `show` and a second build read it there."""
    targets = ("--target", "logits", "--target", "mst@layer2", "--eval-dataset", "digits")
    workers = ("--workers", 1) if executor == "dask" else ()
    local = json.loads(build(*targets, "--executor", executor, *workers, "--json").out)
    store = f"{bucket}/caches"
    made = build(*targets, "--store", store, "--executor", executor, *workers, "--json")
    assert made.code == 0, made.err
    report = json.loads(made.out)
    assert report["path"] == f"{store}/{local['key'][:20]}.zarr"
    assert contents(report["path"]) == contents(local["path"])
    again = build(*targets, "--store", store, "--executor", executor)
    assert again.code == 0 and "nothing to do" in again.out
    listed = run("ls", "--store", store)
    assert listed.code == 0 and local["key"][:12] in listed.out and bucket in listed.out
    shown = json.loads(run("show", local["key"][:8], "--store", store, "--json").out)
    here = json.loads(run("show", local["key"][:8], "--json").out)
    assert shown == {**here, "path": report["path"]}


def test_training_from_a_bucket_is_training_from_a_folder(
    run: Any, recipe: Path, bucket: str, tmp_path: Path
) -> None:
    for store in ((), ("--store", bucket)):
        assert run("build", recipe, "--executor", "serial", *store).code == 0
    settings = ("--set", "train.threads=1", "--json")
    here = run("train", recipe, "--out", "here", *settings)
    there = run("train", recipe, "--out", "there", "--store", bucket, *settings)
    assert here.code == 0 and there.code == 0, there.err
    first, second = json.loads(here.out), json.loads(there.out)
    for figure in ("validation_accuracy", "test_accuracy", "last_test_accuracy", "best_epoch"):
        assert first[figure] == second[figure]
    evaluated = run("eval", "there", "--store", bucket, "--json")
    assert evaluated.code == 0, evaluated.err


def test_push_and_pull(run: Any, build: Any, bucket: str, tmp_path: Path) -> None:
    key = json.loads(build("--target", "mst@layer2", "--json").out)["key"]
    (here,) = list_caches(tmp_path / "store")
    pushed = run("push", key[:8], f"{bucket}/team")
    assert pushed.code == 0 and f"{bucket}/team/{key[:20]}.zarr" in pushed.out
    assert "copied, 0 were there" in pushed.out
    pulled = json.loads(
        run("pull", key[:8], "--from", f"{bucket}/team", "--store", "mine", "--json").out
    )
    assert pulled["n_copied"] == pulled["n_groups"] > 0
    assert contents(pulled["destination"]) == contents(here.path)
    again = run("pull", f"{bucket}/team/{key[:20]}.zarr", "--store", "mine")
    assert again.code == 0 and "0 copied" in again.out
    folder = run("push", key[:8], tmp_path / "disk")
    assert folder.code == 0 and list_caches(tmp_path / "disk")


def test_what_pull_does_not_find(run: Any, bucket: str) -> None:
    absent = run("pull", "abcd1234", "--from", bucket)
    assert absent.code == 1 and "nothing fits" in absent.error
    assert run("pull", "abcd1234").code == 2
    assert run("pull", f"{bucket}/x.zarr").code == 2
    refused = run("push", "abcd1234", "gs://bucket/x")
    assert refused.code == 1


def test_what_a_bucket_refuses_is_one_line(
    run: Any, build: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build().code == 0
    for command in (
        ("ls", "--store", "s3://no-such-bucket"),
        ("show", "abcd1234", "--store", "s3://no-such-bucket/x"),
    ):
        result = run(*command)
        assert result.code == 1 and "bucket 'no-such-bucket' must exist" in result.error
    made = build("--store", "s3://no-such-bucket/x")
    assert made.code == 1 and "bucket 'no-such-bucket' must exist" in made.error
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    result = run("ls", "--store", bucket)
    assert result.code == 1 and "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in result.error


def test_a_cache_without_images_trains_where_the_data_is(
    run: Callable[..., Any], recipe: Path, bucket: str, tmp_path: Path
) -> None:
    """Its targets are taken as they are, and only the pixels are put in again."""
    key = json.loads(run("build", recipe, "--executor", "serial", "--json").out)["key"]
    assert run("push", key, bucket, "--no-images").code == 0
    pulled = run("pull", key, "--from", bucket, "--store", "slim")
    assert pulled.code == 0
    named = run("train", recipe, "--cache", key, "--store", "slim", "--out", "named")
    assert named.code == 1 and "must hold 'images'" in named.error
    found = run("train", recipe, "--store", "slim", "--out", "found")
    assert found.code == 1 and "images" in found.error and "train with --build" in found.error
    plan = json.loads(run("build", recipe, "--store", "slim", "--dry-run", "--json").out)
    assert plan["from_teacher"] == [] and plan["n_units"] == 1
    trained = run("train", recipe, "--store", "slim", "--build", "--out", "trained", "--json")
    assert trained.code == 0, trained.err


def test_a_bucket_is_verified_and_repaired(run: Any, build: Any, bucket: str) -> None:
    """A flipped bit, a lost object and a lost receipt are found there, and made good."""
    built = json.loads(build("--target", "mst@layer2", "--store", bucket, "--json").out)
    store = ("--store", bucket)
    assert run("verify", built["key"], *store).code == 0
    good, objects = contents(built["path"]), open_objects(built["path"])
    key = "targets/layer2/mst/c/0/0/0"
    objects.put(key, bytes([good[key][0] ^ 1]) + good[key][1:])
    objects.delete("labels/zarr.json")
    found = run("verify", built["key"], *store)
    assert found.code == 1 and key in found.out and "labels/zarr.json" in found.out
    repaired = run("verify", built["key"], *store, "--repair")
    assert repaired.code == 0, repaired.out + repaired.err
    assert contents(built["path"]) == good
