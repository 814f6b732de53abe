"""Targets that follow from stored ones: the same rows as the teacher gives, without the teacher."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny_world
import torch
from worlds import contents, parse

from geocache.data.cache import Cache
from geocache.errors import MissingTargetError
from geocache.pipeline.build import BuildReport
from geocache.pipeline.derivation import choose_sources
from geocache.pipeline.derive import derive

Make = Callable[..., BuildReport]

FOLLOWERS = ("attention", "attention:p=1", "gram", "mean_map", "pooled", "mst", "knn:k=3",
             "affinity:radius=2,4", "affinity:k=3", "distance", "mask:radius=2", "mask:k=3",
             "activation")  # fmt: skip


def _objects(report: BuildReport) -> dict[str, bytes]:
    return {k: v for k, v in contents(report).items() if not k.startswith("meta/receipts/")}


def _forwards_during(work: Callable[[], Any]) -> int:
    tiny_world.seen.clear()
    work()
    return sum(n > 5 for n in tiny_world.seen)  # the probe takes up to five, the shapes one


def test_from_a_float32_activation_every_target_follows_bit_for_bit(make: Make) -> None:
    wanted = parse(*(f"{text}@stage1" for text in FOLLOWERS))
    make("derived", targets=parse("activation:dtype=float32@stage1"), executor="serial")
    assert _forwards_during(lambda: make("derived", targets=wanted, executor="serial")) == 0
    derived = make("derived", targets=wanted)
    together = (*parse("activation:dtype=float32@stage1"), *wanted)
    ran = make("ran", targets=together, executor="serial")
    assert _objects(derived) == _objects(ran)


def test_reports_and_receipts_say_what_was_derived_from_what(make: Make) -> None:
    make(targets=parse("mst@stage1", "distance@stage1"))
    report = make(targets=parse("affinity:radius=3@stage1", "logits"), dry_run=True)
    assert (report.derived, report.from_teacher) == (("stage1/affinity.r3",), ("logits",))
    done = make(targets=parse("affinity:radius=3@stage1", "logits"))
    (name,) = (n for n in contents(done) if n.startswith("meta/receipts/targets/stage1/affinity"))
    assert json.loads(contents(done)[name])["derived_from"] == ["mst", "distance"]


def test_affinity_from_the_tree_and_distances_errs_as_float16_does(make: Make) -> None:
    make("derived", targets=parse("mst@stage1", "distance@stage1", "knn:k=4@stage1"))
    wanted = parse("affinity:radius=1,5@stage1", "affinity:k=2@stage1")
    derived = Cache(make("derived", targets=wanted).path)
    ran = Cache(make("ran", targets=wanted).path)
    for name in ("stage1/affinity.r1", "stage1/affinity.r5", "stage1/affinity.k2"):
        ours, theirs = (
            c.decoder(name).decode(torch.from_numpy(c.read(name, 0, 300))) for c in (derived, ran)
        )
        assert 0 < float((ours - theirs).abs().max()) < 2**-10


def test_affinity_from_a_float16_activation_is_over_the_stored_tree(make: Make) -> None:
    """The rounded map has another tree; the student's J is over the stored one."""
    ran = make("ran", targets=parse("mst@stage1", "affinity:radius=1@stage1"))
    make("derived", targets=parse("mst@stage1", "activation@stage1"))
    derived = make("derived", targets=parse("affinity:radius=1@stage1"))
    name = "stage1/affinity.r1"
    ours, theirs = (Cache(r.path).read(name, 0, 300).astype(int) for r in (derived, ran))
    # Another tree would move single values by hundredths: 65535 steps stand for 1.
    assert np.abs(ours - theirs).max() < 0.002 * 65_535


def test_a_shorter_list_serves_and_invalid_rows_stay_zero(make: Make, tmp_path: Any) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    data = {"harm": "unreadable", "harmful": 5, "flag": str(flag)}
    make(data=data, skip_bad=True, targets=parse("knn:k=6@stage1", "activation@stage1"))
    report = make(data=data, skip_bad=True, targets=parse("mask:k=2@stage1", "pooled@stage1"))
    assert report.derived == ("stage1/mask.k2", "stage1/pooled")
    cache = Cache(report.path)
    (row,) = np.flatnonzero(~cache.valid)
    assert not cache.read("stage1/mask.k2", row, row + 1).any()
    assert (cache.read("stage1/mask.k2", 0, 300)[cache.valid].sum(axis=2) == 2).all()
    assert not cache.read("stage1/pooled", row, row + 1).any()


def test_without_teacher_and_data_a_cache_derives_or_says_that_the_teacher_must_run(
    make: Make,
) -> None:
    cache = Cache(make(targets=parse("activation@stage1", "logits")).path)
    with pytest.raises(MissingTargetError, match=r"teacher must run for stage2/mst: .* stage1/act"):
        derive(cache, parse("attention@stage1", "mst@stage2"))
    assert "stage1/attention" not in Cache(cache.path).target_names()
    report = derive(cache, parse("attention@stage1", "affinity:radius=2@stage1"))
    assert (report.rows_built, report.derived) == (300, ("stage1/attention", "stage1/affinity.r2"))
    assert Cache(cache.path).n_built("stage1/attention") == 300
    assert derive(Cache(cache.path), parse("attention@stage1")).n_units == 0


def test_the_largest_logits_follow_from_all(make: Make) -> None:
    make(targets=parse("logits"))
    report = make(targets=parse("logits:top=2,temperature=4"))
    assert report.derived == ("logits.top2.t4",)
    cache = Cache(report.path)
    logits = cache.read("logits", 0, 300).astype(np.float32)
    top = cache.read("logits.top2.t4", 0, 300)
    assert np.array_equal(top[:, 0], logits.max(axis=1))
    rest = np.take_along_axis(logits, np.argsort(-logits, axis=1, kind="stable")[:, 2:], axis=1)
    assert np.allclose(top[:, 4], rest[:, 0] / 4)


def test_nothing_follows_from_less() -> None:
    assert choose_sources(["a/affinity.r2"], {"a/mst", "b/distance"}) == {}
    assert choose_sources(["a/affinity.r2"], {"a/mst", "a/distance"}) == {
        "a/affinity.r2": ("mst", "distance")
    }
    assert choose_sources(["a/affinity.k2"], {"a/knn.k9", "a/distance"}) == {
        "a/affinity.k2": ("knn.k2", "distance")
    }
    assert choose_sources(["a/activation.float32", "logits"], {"a/activation"}) == {}
