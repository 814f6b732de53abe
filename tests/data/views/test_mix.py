"""Views of two images: who is mixed with whom, what comes out, and by which weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from geocache.data.views import (
    CELL_ROWS,
    MixPolicy,
    ViewSet,
    build_policy,
    cell_bounds,
    policy_names,
    view_set_of,
)
from geocache.data.views._mix import partner_offsets
from geocache.errors import ConfigError, UnknownNameError

SHAPE = (12, 9, 3)
rng = np.random.default_rng(0)
DIGESTS = rng.integers(0, 256, (40, 32), dtype=np.uint8)
IMAGES = torch.from_numpy(rng.integers(0, 256, (40, 3, 12, 9), dtype=np.uint8))
MANY = rng.integers(0, 256, (4000, 32), dtype=np.uint8)
BASES: list[Any] = [
    "identity",
    {"policy": "crop_flip", "pad": 2},
    {"policy": "resized_crop_flip", "size": [6, 8]},
    {"policy": "color_jitter"},
    {"policy": "transform", "call": "torchvision:RandomHorizontalFlip"},
]


def _policy(name: str, **options: Any) -> MixPolicy:
    policy = build_policy(name, options)
    assert isinstance(policy, MixPolicy)
    return policy


@pytest.fixture(params=["mixup", "cutmix"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _mixed(policy: MixPolicy, view: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The mixtures, and what each is made of: its own view and its partner's."""
    parameters = torch.from_numpy(policy.draw(DIGESTS, view, 3, SHAPE))
    partners = policy.partners(torch.arange(40), parameters)
    mixed = policy.mix(IMAGES, IMAGES[partners], parameters)
    drawn = torch.from_numpy(policy.inner.draw(DIGESTS, view, 3, SHAPE))
    views = policy.inner.apply(IMAGES, drawn)
    return mixed, views, views[partners]


@given(n=st.integers(1, 70), view=st.integers(0, 40), seed=st.integers(0, 2**62))
def test_partners_are_a_turn_of_each_cell(n: int, view: int, seed: int) -> None:
    partners = np.arange(n) + partner_offsets(MANY[:n], view, seed)
    for start in range(0, n, CELL_ROWS):
        cell = np.arange(start, min(start + CELL_ROWS, n))
        assert np.array_equal(np.sort(partners[cell]), cell)
        assert len(cell) == 1 or (partners[cell] != cell).all()


def test_every_pair_of_a_cell_meets_once_in_as_many_views_as_it_takes() -> None:
    partners = np.stack([partner_offsets(DIGESTS[:32], view, 5) for view in range(CELL_ROWS - 1)])
    for row in range(32):
        assert len(set(partners[:, row].tolist())) == CELL_ROWS - 1
    first = {int(partner_offsets(MANY[n:][:16], 0, 5)[0] % 16) for n in range(0, 640, 16)}
    assert len(first) > 8, "cells begin at places of their own"


def test_cells_are_drawn_without_what_stands_around_them(name: str) -> None:
    policy = _policy(name, base="crop_flip")
    whole = policy.draw(DIGESTS, 1, 2, SHAPE)
    assert np.array_equal(policy.draw(DIGESTS[16:32], 1, 2, SHAPE), whole[16:32])
    assert np.array_equal(policy.draw(DIGESTS[32:], 1, 2, SHAPE), whole[32:])
    assert whole.shape == (40, len(policy.columns)) and whole.dtype == policy.dtype
    assert not np.array_equal(policy.draw(DIGESTS, 0, 2, SHAPE), whole)
    assert not np.array_equal(policy.draw(DIGESTS, 1, 3, SHAPE), whole)
    assert cell_bounds(17, 33, 40) == (16, 40) and cell_bounds(16, 32, 40) == (16, 32)


@pytest.mark.parametrize("base", BASES, ids=lambda base: str(base)[12:30])
def test_mixup_is_the_weighted_mean_of_two_views(base: Any) -> None:
    policy = _policy("mixup", base=base, alpha=0.8)
    mixed, own, partners = _mixed(policy)
    weight = policy.weights(torch.from_numpy(policy.draw(DIGESTS, 0, 3, SHAPE))).double().numpy()
    a, b = own.double().numpy(), partners.double().numpy()
    w = weight[:, None, None, None]
    assert np.array_equal(mixed.numpy(), np.floor(w * a + (1 - w) * b + 0.5).astype(np.uint8))


@pytest.mark.parametrize("base", BASES, ids=lambda base: str(base)[12:30])
def test_cutmix_pastes_a_box_of_the_partners_view(base: Any) -> None:
    policy = _policy("cutmix", base=base)
    mixed, own, partners = _mixed(policy)
    drawn = policy.draw(DIGESTS, 0, 3, SHAPE)
    height, width, _ = policy.output_shape(SHAPE)
    named = dict(zip(policy.columns, drawn.T, strict=True))
    for row in range(40):
        top, left, tall, wide = (int(named[n][row]) for n in policy.columns[-4:])
        expected = own[row].clone()
        box = slice(None), slice(top, top + tall), slice(left, left + wide)
        expected[box] = partners[row][box]
        assert torch.equal(mixed[row], expected)
        assert named["weight"][row] == pytest.approx(1 - tall * wide / (height * width), abs=1e-6)
    assert len(set(named["weight"].tolist())) > 10


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_weights_follow_the_beta_distribution(alpha: float) -> None:
    weights = _policy("mixup", alpha=alpha).draw(MANY, 0, 0, SHAPE)[:, 1]
    places = np.linspace(0.05, 0.95, 19)  # rounded weights pile up at 0 and 1
    below = (weights[:, None] <= places).mean(axis=0)
    assert np.abs(below - stats.beta(alpha, alpha).cdf(places)).max() < 4 * 0.5 / np.sqrt(4000)
    whole = _policy("cutmix", alpha=alpha).draw(MANY, 0, 0, (400, 400, 3))
    inside = (whole[:, 2] > 0) & (whole[:, 3] > 0) & (whole[:, 2:4] + whole[:, 4:] < 400).all(1)
    assert np.array_equal(whole[inside, 4], whole[inside, 5])
    assert inside.any() and whole[:, 1].mean() > 0.55  # boxes cut at the border are smaller


def test_a_probability_leaves_the_others_alone(name: str) -> None:
    mixed, own, _ = _mixed(_policy(name, base="crop_flip", probability=0.0))
    assert torch.equal(mixed, own)
    policy = _policy(name, probability=0.25)
    weights = policy.weights(torch.from_numpy(policy.draw(MANY, 0, 0, SHAPE)))
    assert 0.7 < (weights == 1).double().mean() < 0.82


def test_rows_can_be_left_alone(name: str) -> None:
    policy = _policy(name, base="crop_flip")
    drawn = policy.draw(DIGESTS, 0, 3, SHAPE)
    some = np.arange(40) % 3 == 0
    changed = policy.alone(drawn, some)
    assert np.array_equal(changed[~some], drawn[~some]) and not np.array_equal(changed, drawn)
    parameters = torch.from_numpy(changed)
    partners = policy.partners(torch.arange(40), parameters)
    assert torch.equal(partners[some], torch.arange(40)[some])
    assert (policy.weights(parameters)[some] == 1).all()
    mixed = policy.mix(IMAGES, IMAGES[partners], parameters)
    assert torch.equal(mixed[some], policy.apply(IMAGES, parameters)[some])


def test_the_same_base_has_one_identity(name: str) -> None:
    named = [
        ViewSet(_policy(name, base=base)).identity()
        for base in ("crop_flip", {"policy": "crop_flip"}, {"policy": "crop_flip", "pad": 4})
    ]
    assert named[0] == named[1] == named[2]
    others = [_policy(name), _policy(name, base="flip"), _policy(name, base="crop_flip", alpha=0.3)]
    assert all(ViewSet(other).identity() != named[0] for other in others)
    views = ViewSet(_policy(name, base={"policy": "crop_flip", "pad": 2}, alpha=0.5), 7, 3)
    identity = views.identity()
    again = view_set_of({"policy": identity.policy, "parameters": identity.parameters}, 3)
    assert again == views and again.mixing is not None
    assert np.array_equal(again.parameters(DIGESTS, 2, SHAPE), views.parameters(DIGESTS, 2, SHAPE))


def test_a_cache_does_not_have_a_users_module_imported_as_a_base(name: str) -> None:
    own = {"policy": "transform", "call": "no_such_module:make"}
    identity = ViewSet(_policy(name, base=own)).identity()
    with pytest.raises(ConfigError, match="'no_such_module:make' must be asked for by name"):
        view_set_of({"policy": identity.policy, "parameters": identity.parameters})


def test_what_means_nothing_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="base must show one image, got policy 'mixup'"):
        _policy(name, base="mixup")
    with pytest.raises(UnknownNameError, match="crop_flip"):
        _policy(name, base="crop_flp")
    for wrong in ({"alpha": 0.0}, {"alpha": 101.0}, {"probability": 1.5}):
        with pytest.raises(ConfigError, match=f"{name} must have an alpha above 0"):
            _policy(name, **wrong)
    with pytest.raises(ConfigError, match="16 images in 64 MiB"):
        _policy(name).check((1500, 1500, 3))
    _policy(name).check((1000, 1000, 3))


def test_every_policy_that_mixes_is_tested(name: str) -> None:
    needs: dict[str, dict[str, Any]] = {"transform": {"call": "torchvision:RandomErasing"}}
    built = {known: build_policy(known, needs.get(known, {})) for known in policy_names()}
    assert {n for n, p in built.items() if isinstance(p, MixPolicy)} == {"cutmix", "mixup"}
