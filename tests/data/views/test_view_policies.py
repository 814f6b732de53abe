"""Every policy: a function of (seed, sample, view); batches like single images; right pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from geocache.data.views import ViewPolicy, build_policy, policy_names, uniform_draws
from geocache.data.views._crop import crop_and_flip
from geocache.errors import ConfigError, UnknownNameError

CASES: list[tuple[str, dict[str, Any]]] = [
    ("identity", {}),
    ("flip", {}),
    ("crop_flip", {}),
    ("crop_flip", {"pad": 0}),
    ("resized_crop_flip", {}),
    ("resized_crop_flip", {"size": [6, 10], "area": [0.2, 0.5], "aspect": [0.5, 2.0]}),
    ("color_jitter", {"pad": 2}),
    ("transform", {"call": "torchvision:RandomHorizontalFlip"}),
    ("transform", {"call": "torchvision:RandomSolarize", "options": {"threshold": 100, "p": 0.5}}),
]
SHAPE = (12, 9, 3)
rng = np.random.default_rng(0)
DIGESTS = rng.integers(0, 256, (40, 32), dtype=np.uint8)
IMAGES = torch.from_numpy(rng.integers(0, 256, (40, 3, 12, 9), dtype=np.uint8))


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{len(case[1])}")
def policy(request: pytest.FixtureRequest) -> ViewPolicy:
    return build_policy(*request.param)


def _parameters(policy: ViewPolicy, view: int = 0, seed: int = 0) -> Tensor:
    return torch.from_numpy(policy.draw(DIGESTS, view, seed, SHAPE))


def test_every_policy_is_tested() -> None:
    mixing = {"cutmix", "mixup"}  # test_mix.py
    assert {name for name, _ in CASES} | mixing == set(policy_names())


def test_parameters_are_a_function_of_seed_sample_and_view(policy: ViewPolicy) -> None:
    drawn = policy.draw(DIGESTS, 1, 2, SHAPE)
    assert drawn.shape == (40, len(policy.columns)) and drawn.dtype == policy.dtype
    order = np.random.default_rng(1).permutation(40)
    assert np.array_equal(policy.draw(DIGESTS[order], 1, 2, SHAPE), drawn[order])
    if policy.n_draws:
        assert not np.array_equal(policy.draw(DIGESTS, 0, 2, SHAPE), drawn)
        assert not np.array_equal(policy.draw(DIGESTS, 1, 3, SHAPE), drawn)


def test_a_batch_is_its_images_one_by_one(policy: ViewPolicy) -> None:
    parameters = _parameters(policy)
    views = policy.apply(IMAGES, parameters)
    height, width, _ = policy.output_shape(SHAPE)
    assert views.dtype == torch.uint8 and views.shape == (40, 3, height, width)
    single = [policy.apply(IMAGES[i : i + 1], parameters[i : i + 1]) for i in range(40)]
    difference = (torch.cat(single).int() - views.int()).abs().max()
    exact = type(policy).__name__ not in ("ResizedCropFlip", "ColorJitter")
    assert int(difference) <= (0 if exact else 1)


def test_views_differ_from_each_other_and_keep_global_generators(policy: ViewPolicy) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    views = [policy.apply(IMAGES, _parameters(policy, view)) for view in (0, 1, 0)]
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(views[0], views[2])
    if policy.n_draws:
        assert not torch.equal(views[0], views[1])


def _plain_crop(image: Tensor, top: int, left: int, flip: int, pad: int) -> Tensor:
    padded = torch.nn.functional.pad(image, [pad] * 4)
    crop = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
    return crop.flip(2) if flip else crop


@given(st.integers(0, 6), st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
def test_crops_are_those_of_a_padded_image(pad: int, seed: int, height: int, width: int) -> None:
    random = np.random.default_rng(seed)
    images = torch.from_numpy(random.integers(0, 256, (5, 3, height, width), dtype=np.uint8))
    top, left = (torch.from_numpy(random.integers(0, 2 * pad + 1, 5)) for _ in range(2))
    flip = torch.from_numpy(random.integers(0, 2, 5))
    ours = crop_and_flip(images, top, left, flip, pad=pad)
    for i in range(5):
        assert torch.equal(
            ours[i], _plain_crop(images[i], int(top[i]), int(left[i]), int(flip[i]), pad)
        )


def test_draws_are_uniform_and_known() -> None:
    """The numbers are part of the format: caches hold what they gave."""
    draws = uniform_draws(np.zeros((2, 32), np.uint8), 0, 0, 3)
    assert draws[0] == pytest.approx(draws[1])
    many = uniform_draws(rng.integers(0, 256, (20_000, 32), dtype=np.uint8), 3, 7, 2)
    assert (many >= 0).all() and (many < 1).all()
    counts = np.histogram(many, bins=20, range=(0, 1))[0]
    assert np.abs(counts - 2000).max() < 6 * np.sqrt(2000)
    assert abs(np.corrcoef(many.T)[0, 1]) < 0.04


def test_a_box_of_the_whole_image_at_its_own_size_is_the_image() -> None:
    policy = build_policy("resized_crop_flip", {"area": [1, 1], "aspect": [0.75, 0.75]})
    parameters = _parameters(policy)
    assert parameters[:, :4].tolist() == [[0, 0, 12, 9]] * 40
    views = policy.apply(IMAGES, parameters)
    mirrored = torch.where((parameters[:, 4] != 0)[:, None, None, None], IMAGES.flip(3), IMAGES)
    assert torch.equal(views, mirrored)


def test_boxes_are_resampled_as_torchvision_does() -> None:
    from torchvision.transforms.v2 import functional

    policy = build_policy("resized_crop_flip", {"size": [6, 5]})
    parameters = _parameters(policy)
    views = policy.apply(IMAGES, parameters)
    for image, view, row in zip(IMAGES, views, parameters.tolist(), strict=True):
        theirs = functional.resized_crop(image, *row[:4], [6, 5], antialias=True)
        theirs = theirs.flip(2) if row[4] else theirs
        assert int((theirs.int() - view.int()).abs().max()) <= 2  # theirs rounds between the axes


def test_boxes_have_the_areas_and_aspects_asked_for() -> None:
    policy = build_policy("resized_crop_flip", {"area": [0.2, 0.5], "aspect": [0.5, 2.0]})
    digests = rng.integers(0, 256, (4000, 32), dtype=np.uint8)
    drawn = policy.draw(digests, 0, 0, (224, 224, 3)).astype(float)
    top, left, height, width, flip = drawn.T
    assert (top >= 0).all() and (top + height <= 224).all()
    assert (left >= 0).all() and (left + width <= 224).all()
    area, aspect = height * width / 224**2, width / height
    assert 0.19 < area.min() < 0.21 and 0.48 < area.max() < 0.51
    assert 0.49 < aspect.min() < 0.55 and 1.8 < aspect.max() < 2.05
    assert abs(flip.mean() - 0.5) < 0.04


def test_jitter_without_amounts_is_the_image_and_hue_turns_as_torchvision_turns() -> None:
    from torchvision.transforms.v2 import functional

    none = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    still = build_policy("color_jitter", none)
    parameters = _parameters(still)
    mirrored = torch.where((parameters[:, 2] != 0)[:, None, None, None], IMAGES.flip(3), IMAGES)
    assert torch.equal(still.apply(IMAGES, parameters), mirrored)
    turning = build_policy("color_jitter", {**none, "hue": 0.5})
    for name, column in (("hue", 6), ("brightness", 3), ("saturation", 5), ("contrast", 4)):
        values = {"hue": 0.3}.get(name, 1.3)
        parameters = torch.tensor([[0.0, 0, 0, 1, 1, 1, 0]]).repeat(40, 1)
        parameters[:, column] = values
        theirs = getattr(functional, f"adjust_{name}")(IMAGES, values)
        difference = (turning.apply(IMAGES, parameters).int() - theirs.int()).abs()
        assert int(difference.max()) <= 2, name


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("crop_filp", {}, UnknownNameError, "Did you mean 'crop_flip'"),
        ("crop_flip", {"padd": 4}, UnknownNameError, "Did you mean 'pad'"),
        ("crop_flip", {"pad": -1}, ConfigError, "pad must be from 0 to 1000"),
        ("crop_flip", {"pad": "four"}, ConfigError, "pad must be a valid integer"),
        ("resized_crop_flip", {"area": [0.5, 0.2]}, ConfigError, "area must be a range"),
        ("resized_crop_flip", {"size": 0}, ConfigError, "size must be from 1 up"),
        ("color_jitter", {"hue": 0.7}, ConfigError, "hue from 0 to 0.5"),
        ("transform", {}, ConfigError, "must have the option 'call'"),
    ],
)
def test_what_is_no_policy_is_refused(
    name: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build_policy(name, options)


@pytest.mark.parametrize(
    ("call", "options", "error", "message"),
    [
        ("torchvision:RandomFlip", {}, UnknownNameError, "must have 'RandomFlip'"),
        (
            "torchvision:ToDtype",
            {"dtype": torch.float32},
            ConfigError,
            "must return a uint8 tensor",
        ),
        ("torchvision:RandomResize", {"min_size": 4, "max_size": 12}, ConfigError, "of one size"),
        ("torchvision:RandomCrop", {"sise": 3}, ConfigError, "must take the options"),
    ],
)
def test_a_transform_that_does_not_fit_is_named(
    call: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    policy = build_policy("transform", {"call": call, "options": options})
    with pytest.raises(error, match=message):
        policy.apply(IMAGES, _parameters(policy))
