"""Targets of the user's: how they are named, found, refused, and kept in a cache."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from geocache.data.cache import Cache
from geocache.data.datasets import open_dataset
from geocache.errors import ConfigError, UnknownNameError
from geocache.pipeline import BuildRequest, build
from geocache.student_train import Loader
from geocache.targets import LayerTarget, parse_target, target_from_name
from geocache.targets.affinity import Affinity

OWN = '''
from dataclasses import dataclass
from typing import ClassVar

from geocache.targets import PlainTarget, RowStorage, Target


@dataclass(frozen=True)
class Power(Target):
    """The output's absolute values to a power; an integer and a number are its parameters."""

    p: int
    scale: float = 1.0
    kind: ClassVar[str] = "own.deep.powers:Power"
    needs_layer: ClassVar[bool] = False

    @property
    def array_name(self):
        return f"{self.kind}.p{self.p}.s{self.scale:g}"

    @classmethod
    def from_suffix(cls, suffix):
        p, _, scale = suffix.partition(".")
        return cls(int(p[1:]), float(scale[1:]))

    def storage(self, shape):
        return RowStorage("float32", shape, ("class",))

    def compute(self, features):
        return (self.scale * features.features.abs() ** self.p).numpy()

    def decode(self, stored):
        return stored / self.scale


@dataclass(frozen=True)
class Elsewhere(Power):
    """States the kind of its base class."""


@dataclass(frozen=True)
class Forgetful(Power):
    """Its name does not tell the scale."""

    kind: ClassVar[str] = "own.deep.powers:Forgetful"

    @property
    def array_name(self):
        return f"{self.kind}.p{self.p}.s1"


@dataclass(frozen=True)
class Slashed(Power):
    """Its name would be a folder's."""

    kind: ClassVar[str] = "own.deep.powers:Slashed"

    @property
    def array_name(self):
        return f"{self.kind}.p/{self.p}"


@dataclass(frozen=True)
class Unfinished(Target):
    kind: ClassVar[str] = "own.deep.powers:Unfinished"


@dataclass(frozen=True)
class Bare(PlainTarget):
    kind: ClassVar[str] = "own.deep.powers:Bare"
    storage = compute = decode = None


@dataclass
class Melted(Target):
    kind: ClassVar[str] = "own.deep.powers:Melted"


def function():
    pass
'''
NAME = "own~deep~powers~Power.p3.s0.5"


@pytest.fixture(autouse=True)
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own" / "deep").mkdir(parents=True)
    (tmp_path / "own" / "deep" / "powers.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "own"]:
        del sys.modules[name]


def test_a_name_goes_there_and_back() -> None:
    (found,) = parse_target("own.deep.powers:Power:p=3,scale=0.5")
    assert found.target.parameters == {"p": 3, "scale": 0.5}
    assert found.name == found.target.name == NAME
    assert target_from_name(NAME) == found


def test_a_target_without_parameters_is_named_by_its_kind() -> None:
    (found,) = parse_target("own.deep.powers:Bare@layer2.0")
    assert found.name == "layer2.0/own~deep~powers~Bare"
    assert target_from_name(found.name) == found


def test_a_loss_takes_one_name_for_both() -> None:
    """With a layer as the cache has it, without one as the keys of `target`."""
    target = target_from_name(NAME).target
    assert LayerTarget(target, "a.b").name == f"a.b/{NAME}"
    assert LayerTarget(target, None).name == target.name
    assert Affinity(radius=5).name == Affinity(radius=5).array_name == "affinity.r5"


def test_several_values_are_several_targets() -> None:
    found = parse_target("own.deep.powers:Power:p=1,2,scale=2,4")
    names = [one.name.removeprefix("own~deep~powers~Power") for one in found]
    assert names == [".p1.s2", ".p1.s4", ".p2.s2", ".p2.s4"]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("own.deep.powers:Power", ConfigError, r"must give p, as in own\.deep\.powers:Power:p="),
        ("own.deep.powers:Power:q=3", ConfigError, "no parameter 'q'.*parameters are p, scale"),
        ("own.deep.powers:Power:p=3,scale=x", ConfigError, "must be finite numbers, got 'x'"),
        ("own.deep.powers:Power:p=3@l", ConfigError, "leave out '@l'"),
        ("own.deep.powers:Pwer:p=3", UnknownNameError, "it defines .*Power"),
        ("own.deep.nothing:Power:p=3", UnknownNameError, "importable module"),
        ("own.deep.powers:p=3", UnknownNameError, "or MODULE:CALLABLE"),
        ("own.deep.powers:function", ConfigError, "frozen dataclass derived from .*Target"),
        ("own.deep.powers:Melted", ConfigError, "frozen dataclass derived from .*Target"),
        ("own.deep.powers:Unfinished", ConfigError, "must define array_name, compute, decode"),
        ("own.deep.powers:Elsewhere:p=3", ConfigError,
         r"got kind = 'own\.deep\.powers:Power'.*kind: ClassVar\[str\] = \"own\.deep\.powers:Else"),
        ("own.deep.powers:Forgetful:p=3,scale=2", ConfigError, "array_name tell every field"),
        ("own.deep.powers:Slashed:p=3", ConfigError, "letters, digits.*got .*p/3"),
        ("own.deep.powers:Power.inner:p=3", ConfigError, "top of its module"),
        ("own..powers:Power:p=3", ConfigError, "MODULE:CLASS"),
    ],
)  # fmt: skip
def test_what_is_no_target_is_refused(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        parse_target(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["~Power.p3", "own~.p3", "own~~Power.p3", "~~.p3", "ów~Power"])
def test_unreadable_names_import_nothing(name: str) -> None:
    before = set(sys.modules)
    with pytest.raises(ConfigError, match="MODULE:CLASS"):
        target_from_name(name)
    assert set(sys.modules) == before


def test_a_statistic_of_the_output_is_kept_and_read(tmp_path: Path) -> None:
    """It belongs to no layer, yet stands among the targets, under a name legal everywhere."""
    wanted = (*parse_target("own.deep.powers:Power:p=2,scale=4"), *parse_target("logits"))
    report = build(
        BuildRequest(
            dataset=open_dataset("fakedata", split="train", options={"n": 6, "classes": 3}),
            model="resnet_cifar",
            options={"depth": 8},
            targets=wanted,
            store=tmp_path / "store",
            executor="serial",
            n_threads=1,
        )
    )
    assert not report.failures
    cache = Cache(report.path)
    name = "own~deep~powers~Power.p2.s4"
    assert set(cache.target_names()) == {name, "logits"}
    logits = cache.read("logits", 0, 6).astype(np.float32)
    np.testing.assert_allclose(cache.read(name, 0, 6), 4 * logits**2, rtol=5e-3, atol=1e-4)
    batch = next(Loader(cache, (name, "logits")).epoch(0)).at()
    np.testing.assert_allclose(batch[name], batch["logits"] ** 2, rtol=5e-3, atol=1e-4)
    legal = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-~")
    assert all(set(file.name) <= legal for file in report.path.rglob("*"))
