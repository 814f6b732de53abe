"""Views end to end: what the teacher saw is what the student sees, in every epoch's view."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from worlds import contents, images, parse

from geocache.data.cache import Cache
from geocache.data.views import ViewSet, build_policy
from geocache.data.writer import CacheWriter
from geocache.errors import ConfigError, MissingTargetError
from geocache.pipeline.build import BuildReport
from geocache.pipeline.teacher import Teacher, TeacherSpec
from geocache.student_train import Loader

Make = Callable[..., BuildReport]
CROPS = build_policy("crop_flip", {"pad": 2})


def _views(count: int = 2, **changes: Any) -> ViewSet:
    return ViewSet(**{"policy": CROPS, "seed": 3, "count": count, **changes})


def _teacher(cache: Cache, height: int = 8) -> Teacher:
    shape = (3, height, height)
    return Teacher(TeacherSpec("tiny_world:teacher", None, 3, shape, cache.mean, cache.std))


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("flip", {}, 8),
        ("crop_flip", {"pad": 2}, 8),
        ("resized_crop_flip", {"size": 16}, 16),
        ("color_jitter", {}, 8),
        ("transform", {"call": "torchvision:RandomSolarize", "options": {"threshold": 99}}, 8),
    ],
)
def test_the_students_pixels_give_the_teachers_answers(
    make: Make, name: str, options: dict[str, Any], size: int
) -> None:
    """The teacher, run on the batches that the loader makes, gives what the cache holds."""
    views = ViewSet(build_policy(name, options), 1, 3)
    targets = parse("logits", "activation:dtype=float32@stage2")
    cache = Cache(make(views=views, targets=targets).path)
    loader = Loader(cache, ["logits", "stage2/activation.float32"], batch_size=64)
    assert loader.views == views and loader.image_shape == (3, size, size)
    seen = []
    with _teacher(cache, size).tap(("stage2",)) as teacher:
        for epoch in range(4):
            batch = next(loader.epoch(epoch))
            output, features = teacher._taps(batch.images)  # type: ignore[misc]
            assert torch.allclose(output, batch.targets["logits"], atol=2e-3)
            stored = batch.targets["stage2/activation.float32"]
            assert torch.allclose(features["stage2"], stored, atol=1e-5)
            seen.append(loader.batch(loader.rows[:9], loader.view_of(epoch)).images)
    assert torch.equal(seen[0], seen[3]) and not torch.equal(seen[0], seen[1])


def test_pixels_of_crops_are_the_teachers_bit_for_bit(make: Make) -> None:
    """Before normalisation: the view made as the build makes it, and as the loader makes it."""
    from geocache.data.views import make_views

    cache = Cache(make(views=_views()).path)
    loader = Loader(cache, batch_size=300)
    for view in (0, 1):
        built = make_views(CROPS, cache.read("images", 0, 300), cache.view_parameters(view, 300))
        plain = loader.batch(np.arange(300), view).images
        mean = torch.tensor(cache.mean).view(-1, 1, 1)
        pixels = (plain * torch.tensor(cache.std).view(-1, 1, 1) + mean) * 255
        assert np.array_equal(pixels.permute(0, 2, 3, 1).round().numpy(), built.astype(np.float32))


def test_views_are_added_and_the_first_ones_stay(make: Make) -> None:
    """The number of views is no part of the identity; what stands is not computed again."""
    two = make(views=_views(2))
    before = contents(two)
    assert Cache(two.path).n_built("logits", 2) == 300
    assert make(views=_views(2)).n_units == 0 and make(views=_views(1)).n_units == 0
    four = make(views=_views(4))
    assert four.key == two.key and four.n_units == 2
    after = contents(four)
    changed = {name for name, data in before.items() if after[name] != data}
    assert all(name.endswith("/zarr.json") for name in changed) and changed
    cache = Cache(four.path)
    assert (cache.n_views, cache.n_built("stage1/mst", 4), cache.n_built("logits", 5)) == (
        4,
        300,
        0,
    )
    whole = make("whole", views=_views(4))
    assert contents(whole) == after
    assert make(views=_views(2)).n_units == 0
    assert contents(four) == after


def test_a_student_trains_on_the_first_views_while_others_are_added(make: Make) -> None:
    """A builder declares the longer axis before it has built any of it."""
    report = make(views=_views(1))
    cache = Cache(report.path)
    before = [batch.targets["logits"] for batch in Loader(cache, ["logits"]).epoch(0)]
    writer = CacheWriter(report.path, {})
    for layout in cache.layouts.values():
        if layout.n_views:
            writer.declare(dataclasses.replace(layout, n_views=4))
    growing = Cache(report.path)
    assert (growing.n_views, growing.target_names()) == (4, cache.target_names())
    loader = Loader(growing, ["logits"], views=_views(1))
    after = [batch.targets["logits"] for batch in loader.epoch(0)]
    assert all(map(torch.equal, before, after))
    with pytest.raises(MissingTargetError, match="300 in 2 views, got 0"):
        Loader(growing, ["logits"], views=_views(2))


def test_another_policy_or_seed_is_another_cache(make: Make) -> None:
    keys = {
        make(views=views, dry_run=True).key
        for views in (
            ViewSet(), _views(), _views(seed=4), _views(policy=build_policy("crop_flip")),
            _views(policy=build_policy("flip")),
        )
    }  # fmt: skip
    assert len(keys) == 5
    assert make(views=_views(1), dry_run=True).key == make(views=_views(3), dry_run=True).key


def test_a_target_is_added_to_every_view(make: Make) -> None:
    make(views=_views(), targets=parse("activation:dtype=float32@stage1"))
    report = make(views=_views(), targets=parse("mst@stage1", "affinity:radius=2@stage1"))
    assert report.derived == ("stage1/affinity.r2", "stage1/mst")
    ran = make("ran", views=_views(), targets=parse("mst@stage1", "affinity:radius=2@stage1"))
    for view in (0, 1):
        for name in ("stage1/mst", "stage1/affinity.r2"):
            ours, theirs = (Cache(r.path).read(name, 0, 300, view) for r in (report, ran))
            assert np.array_equal(ours, theirs)
    first = Cache(ran.path).read("stage1/mst", 0, 300, 0)
    assert not np.array_equal(first, Cache(ran.path).read("stage1/mst", 0, 300, 1))


def test_an_image_left_out_is_left_out_of_every_view(make: Make, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    data = {"harm": "unreadable", "harmful": 5, "flag": str(flag)}
    report = make(data=data, skip_bad=True, views=_views())
    cache = Cache(report.path)
    (row,) = np.flatnonzero(~cache.valid)
    for view in (0, 1):
        assert not cache.read("stage2/pooled", row, row + 1, view).any()
        assert cache.read("stage2/pooled", 0, row, view).any()


def test_a_loader_refuses_views_that_the_teacher_did_not_see(make: Make) -> None:
    cache = Cache(make(views=_views()).path)
    with pytest.raises(ConfigError, match="views must be those that the teacher saw, got flip"):
        Loader(cache, ["logits"], views=ViewSet(build_policy("flip"), 3, 2))
    with pytest.raises(MissingTargetError, match="300 in 3 views, got 0"):
        Loader(cache, ["logits"], views=_views(3))
    with pytest.raises(ConfigError, match="fresh views must go without targets"):
        Loader(cache, ["logits"], fresh_views=True)
    fresh = Loader(cache, fresh_views=True, views=_views(1))
    assert fresh.view_of(7) == 7


def test_views_that_are_all_the_same_are_refused() -> None:
    with pytest.raises(ConfigError, match="count must be 1 with policy 'identity'"):
        ViewSet(count=2)


def test_a_transform_of_the_users_own_is_not_imported_because_a_cache_names_it(make: Make) -> None:
    policy = build_policy("transform", {"call": "tiny_world:solarise"})
    report = make(views=ViewSet(policy, 0, 2))
    assert not report.failures
    cache = Cache(report.path)
    with pytest.raises(ConfigError, match="must be asked for by name"):
        Loader(cache, ["logits"])
    assert len(Loader(cache, ["logits"], views=ViewSet(policy, 0, 2)).rows) == len(images())
