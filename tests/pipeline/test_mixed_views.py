"""Builds of views that show two images: the pairs that are stored are those that were answered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worlds import contents, parse

import geocache
from geocache.data.cache import Cache
from geocache.data.views import CELL_ROWS, MixPolicy, ViewSet, build_policy, make_views
from geocache.errors import ConfigError
from geocache.pipeline.build import BuildReport
from geocache.pipeline.teacher import Teacher, TeacherSpec

Make = Callable[..., BuildReport]
CROPS = {"policy": "crop_flip", "pad": 2}
POLICIES: list[tuple[str, dict[str, Any]]] = [
    ("crop_flip", {"pad": 2}),
    ("resized_crop_flip", {"size": 16}),
    ("mixup", {"base": CROPS}),
    ("cutmix", {"base": {"policy": "resized_crop_flip", "size": 16}}),
]


def _views(name: str = "mixup", count: int = 2, **options: Any) -> ViewSet:
    return ViewSet(build_policy(name, {"base": CROPS, **options}), 3, count)


def _answers(cache: Cache, view: int, skipped: int = -1) -> tuple[Any, Any]:
    """The logits that stand in the cache, and the teacher's to views made of what stands there."""
    stored, parameters = cache.read("images", 0, 300), cache.view_parameters(view, 300)
    policy = cache.views.policy
    assert isinstance(policy, MixPolicy)
    partners = np.arange(300) + policy.offsets(parameters)
    assert skipped not in np.delete(partners, skipped)
    seen = make_views(policy, stored, parameters, stored[partners])
    height, width = seen.shape[1:3]
    spec = TeacherSpec("tiny_world:teacher", None, 3, (3, height, width), cache.mean, cache.std)
    with Teacher(spec).tap(()) as teacher:
        answers = np.concatenate([teacher.run(seen[i : i + 60])[""] for i in range(0, 300, 60)])
    return cache.read("logits", 0, 300, view), answers


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
@pytest.mark.parametrize("batch_size", [64, 20])
def test_the_teacher_answered_the_mixtures(make: Make, name: str, batch_size: int) -> None:
    cache = Cache(make(views=_views(name), batch_size=batch_size).path)
    for view in (0, 1):
        stored, answers = _answers(cache, view)
        assert np.allclose(stored, answers, atol=3e-4)
    assert not np.allclose(
        cache.read("logits", 0, 300, 0), cache.read("logits", 0, 300, 1), atol=5e-3
    )


@pytest.mark.parametrize(("name", "options"), POLICIES, ids=lambda value: str(value)[:9])
def test_a_deep_look_makes_the_views_again(make: Make, name: str, options: Any) -> None:
    """Before, it held the answers to views against those to whole images: all was damage."""
    report = make(views=ViewSet(build_policy(name, options), 3, 3))
    found = geocache.verify(report.path, depth="deep")
    assert (found.findings, found.left_out) == ((), None)
    assert {compared.by for compared in found.compared} == {"bits"}


def test_mixtures_are_built_the_same_at_once_and_bit_by_bit(make: Make) -> None:
    """A front of whole cells first, another target, another view: no parameter changes."""
    make("grown", views=_views(count=1), targets=parse("logits"), limit=96)
    make("grown", views=_views(count=1), targets=parse("logits"))
    make("grown", views=_views(count=1))
    grown = make("grown", views=_views(count=2))
    whole = make("whole", views=_views(count=2))
    assert grown.key == whole.key
    ours, theirs = contents(grown), contents(whole)
    values = {name for name in theirs if "/c/" in name and not name.startswith("meta/")}
    assert values and all(ours[name] == theirs[name] for name in values)


def test_a_front_that_cuts_a_cell_is_refused(make: Make) -> None:
    with pytest.raises(ConfigError, match="multiple of 16 rows with views by 'mixup'"):
        make(views=_views(), limit=100)
    assert make(views=_views(), limit=300).n_asked == 300


def test_nothing_is_mixed_with_an_image_that_cannot_be_read(make: Make, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    data = {"harm": "unreadable", "harmful": 5, "flag": str(flag)}
    cache = Cache(make(data=data, skip_bad=True, views=_views()).path)
    (bad,) = np.flatnonzero(~cache.valid)
    whole = Cache(make("whole", views=_views()).path)
    for view in (0, 1):
        ours, theirs = (c.view_parameters(view, 300) for c in (cache, whole))
        policy = cache.views.mixing
        assert policy is not None
        widow = np.flatnonzero(np.arange(300) + policy.offsets(theirs) == bad)
        assert policy.offsets(ours)[widow] == 0
        assert np.flatnonzero((ours != theirs).any(axis=1)).tolist() == widow.tolist()
        stored, answers = _answers(cache, view, int(bad))
        others = np.arange(300) != bad
        assert np.allclose(stored[others], answers[others], atol=3e-4)
    assert geocache.verify(cache.path, depth="deep").damage == ()


def test_dask_builds_the_same_mixtures(make: Make) -> None:
    data = {"n": 2100}
    serial = make("serial", data=data, views=_views())
    dask = make("dask", data=data, views=_views(), executor="dask", n_workers=2)
    assert contents(serial) == contents(dask)


def test_a_reader_without_geocache_finds_partner_and_weight(make: Make) -> None:
    import zarr

    path = make(views=_views("cutmix")).path
    views = zarr.open_array(f"{path}/views", mode="r")
    names = views.attrs["parameters"]
    assert names[-6:] == ["partner", "weight", "top", "left", "height", "width"]
    partner = np.asarray(views[1])[:, names.index("partner")] + np.arange(300)
    assert np.array_equal(np.sort(partner), np.arange(300))
    assert np.array_equal(partner // CELL_ROWS, np.arange(300) // CELL_ROWS)
