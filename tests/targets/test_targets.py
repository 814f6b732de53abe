"""What single targets store, and how targets are named."""

from __future__ import annotations

import numpy as np
import plain_geometry as plain
import pytest
import torch
from torch import Tensor

from geocache.errors import ConfigError, ShapeError, UnknownNameError
from geocache.geometry import affinity_contrast, minimum_spanning_tree, tree_mask
from geocache.targets import LocalFeatures, Target, parse_target, target_from_name
from geocache.targets.affinity import Affinity
from geocache.targets.mask import Mask


def one(text: str) -> Target:
    return parse_target(text)[0].target


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def rows(text: str, values: Tensor) -> np.ndarray:
    return one(text).compute(LocalFeatures(values, "here"))


def test_affinity_in_fixed_point_errs_by_half_a_step() -> None:
    # J in 65,536 levels 1 / 65,535 apart, rounded to the nearest: at most 1 / 131,070 off.
    values = noise(8, 5, 8, 8).relu()
    parents = minimum_spanning_tree(values)
    for radius in (1, 5, 1000):
        exact = affinity_contrast(values, parents=parents, radius=radius).double()
        target = Affinity(radius=radius)
        decoded = target.decode(torch.from_numpy(rows(f"affinity:radius={radius}@l", values)))
        assert decoded.dtype == torch.float32
        # What float32 adds to the decoded number: half a unit in the last place of 1.
        assert float((decoded.double() - exact).abs().max()) <= 1 / 131_070 + 2**-24


def test_affinity_reaches_both_ends() -> None:
    target = Affinity(radius=1)
    ends = torch.tensor([[-32768, 32767]], dtype=torch.int16)
    assert target.decode(ends).tolist() == [[0.0, 1.0]]
    storage = target.storage((3, 4, 4))
    factor, offset = storage.attributes["scale_factor"], storage.attributes["add_offset"]
    assert ends.double() * factor + offset == pytest.approx(np.array([[0.0, 1.0]]), abs=1e-12)


@pytest.mark.parametrize(("n", "dtype"), [(256, "uint8"), (257, "int16"), (40_000, "int32")])
def test_node_numbers_take_the_narrowest_type(n: int, dtype: str) -> None:
    assert one("mst@l").storage((3, n)).dtype == dtype
    assert one("knn:k=2@l").storage((3, n)).dtype == dtype


def test_trees_of_256_positions_fit_a_byte() -> None:
    values = noise(2, 3, 16, 16)
    stored = rows("mst@l", values)
    assert stored.dtype == np.uint8
    assert torch.equal(one("mst@l").decode(torch.from_numpy(stored)), minimum_spanning_tree(values))


def test_knn_and_mask_follow_the_plain_definitions() -> None:
    values = noise(2, 3, 4, 4)
    lists, by_k = rows("knn:k=5@l", values), rows("mask:k=5@l", values)
    by_radius = rows("mask:radius=2@l", values)
    trees = tree_mask(minimum_spanning_tree(values), 2)
    for b, x in enumerate(values.flatten(2).numpy()):
        nearest = plain.nearest_neighbours(plain.squared_distances(x), 5)
        assert np.array_equal(lists[b], nearest)
        assert all(set(np.flatnonzero(by_k[b, i])) == set(nearest[i]) for i in range(16))
    assert np.array_equal(by_radius, trees.numpy())


def test_pooled_is_the_mean_over_positions() -> None:
    values = noise(3, 4, 5, 5)
    assert np.array_equal(rows("pooled@l", values), values.mean((2, 3)).half().numpy())
    vectors = noise(3, 4)
    assert np.array_equal(rows("pooled@l", vectors), vectors.half().numpy())


def test_values_give_a_target_each() -> None:
    names = [found.name for found in parse_target("affinity:radius=2,5,10@layer2")]
    assert names == ["layer2/affinity.r2", "layer2/affinity.r5", "layer2/affinity.r10"]
    assert [found.name for found in parse_target("logits")] == ["logits"]
    names = [found.name for found in parse_target("logits:top=8,temperature=1,4,2.5")]
    assert names == ["logits.top8.t1", "logits.top8.t4", "logits.top8.t2.5"]
    assert [f.name for f in parse_target("knn:k=4,8@a.b")] == ["a.b/knn.k4", "a.b/knn.k8"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("affinity:radius=2,k=3@l", "either radius or k"),
        ("affinity@l", "either radius or k"),
        ("mask@l", "either radius or k, as in mask:radius=5"),
        ("affinity:radius=0@l", "whole numbers from 1 up, got '0'"),
        ("affinity:radius=-2@l", "whole numbers from 1 up, got '-2'"),
        ("affinity:radius=two@l", "whole numbers from 1 up, got 'two'"),
        ("affinity:raduis=2@l", r"no parameter 'raduis'.*Did you mean 'radius'"),
        ("affinity:5@l", "NAME=VALUE"),
        ("knn@l", r"must give k, as in knn:k=\.\.\."),
        ("mst:k=2@l", "no parameter 'k'.*parameters are none"),
        ("activation:dtype=int4@l", "float16, float32 or int8, got 'int4'"),
        ("mst", "must name a layer, as in mst@layer2"),
        ("mst@", "must name a layer"),
        ("logits@layer2", "leave out '@layer2'"),
        ("logits:top=8", "both top and temperature or neither, got top=8, temperature=None"),
        ("logits:temperature=4", "both top and temperature or neither"),
        ("logits:top=0,temperature=4", "whole numbers from 1 up, got '0'"),
        ("logits:top=8,temperature=warm", "must be finite numbers, got 'warm'"),
        ("logits:top=8,temperature=inf", "must be finite numbers, got 'inf'"),
        ("logits:top=8,temperature=0", "from 0.0001 to 999999 .*, got 0.0"),
        ("logits:top=8,temperature=-4", "from 0.0001 to 999999 .*, got -4.0"),
        ("logits:top=8,temperature=2.1234567", "at most six digits, got 2.1234567"),
    ],
)
def test_unreadable_requests_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_target(text)


@pytest.mark.parametrize(
    "name", ["l/affinity", "l/affinity.x3", "l/affinity.r", "l/affinity.r0", "l/mask.k-1",
             "l/knn", "l/knn.r3", "l/knn.kx", "l/mst.k3", "logits.2", "l/pooled.mean", "mst",
             "logits.top8", "logits.top8.4", "logits.top8.t", "logits.top8.tx", "logits.top0.t4",
             "logits.t4.top8", "logits.top8.t4.0", "logits.top08.t4", "logits.top8.t1e1",
             "logits.top8.tnan", "logits.top8.t0", "logits.topx.t4"]
)  # fmt: skip
def test_unreadable_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        target_from_name(name)


@pytest.mark.parametrize("find", [lambda: parse_target("afinity:radius=2@l"),
                                  lambda: target_from_name("l/afinity.r2")])  # fmt: skip
def test_unknown_kinds_name_the_nearest(find: object) -> None:
    with pytest.raises(UnknownNameError, match=r"one of activation, affinity.*mean 'affinity'"):
        find()  # type: ignore[operator]


@pytest.mark.parametrize("kind", [Affinity, Mask])
@pytest.mark.parametrize(
    "fields", [{}, {"radius": 2, "k": 3}, {"radius": 0}, {"k": 0}, {"radius": -1}]
)
def test_components_refuse_what_names_refuse(kind: type[Target], fields: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=kind.kind):
        kind(**fields)


@pytest.mark.parametrize("text", ["knn:k=16@l", "affinity:k=16@l", "mask:k=16@l"])
def test_k_must_be_below_the_positions(text: str) -> None:
    target = one(text)
    target.storage((3, 17))
    with pytest.raises(ConfigError, match="below the layer's 16 positions, got 16"):
        target.storage((3, 4, 4))


def test_logits_must_be_vectors() -> None:
    with pytest.raises(ShapeError, match=r"one vector of logits an image, got shape \(10, 4, 4\)"):
        one("logits").storage((10, 4, 4))
