"""Building models by name, and what is said about names and arguments that do not fit."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from geocache.errors import ConfigError, GeocacheError, ShapeError, UnknownNameError
from geocache.models import build_model, model_names, state_digest

CUSTOM = '''
from torch import nn

def plain(n_classes, input_shape, width=4):
    return nn.Sequential(
        nn.Conv2d(input_shape[0], width, 3), nn.Flatten(),
        nn.Linear(width * (input_shape[1] - 2) * (input_shape[2] - 2), n_classes))

def blind():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10))

def anything(**keywords):
    assert set(keywords) == {"n_classes", "input_shape", "width"}, keywords
    return plain(**keywords)

class Looks(nn.Module):
    """Looks at values, counts its calls, and keeps a tensor outside its state."""
    def __init__(self, n_classes):
        super().__init__()
        import torch
        self.scale = [torch.ones(1)]
        self.register_buffer("n_calls", torch.zeros(1))
        self.fc = nn.Linear(3, n_classes)
    def forward(self, x):
        self.n_calls += 1
        assert x.sum().item() == x.sum().item()
        return self.fc(x.mean((2, 3)) * self.scale[0])

def pair(n_classes):
    class Pair(nn.Module):
        def forward(self, x):
            return x, x
    return Pair()

def wrong():
    return 3

instance = blind()
'''


@pytest.fixture
def custom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "custom_nets.py").write_text(CUSTOM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "custom_nets", raising=False)
    return "custom_nets"


def test_names_are_modules_and_variants() -> None:
    assert {"simple_cnn", "nin", "resnet_cifar", "resnet20", "resnet110", "cnn1", "cnn1_l"} <= set(
        model_names()
    )
    assert list(model_names()) == sorted(model_names())
    assert not any(name.startswith("_") for name in model_names())


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet21", "Did you mean 'resnet"),
        ("simplecnn", "Did you mean 'simple_cnn'?"),
        ("_build", "nin"),
        ("torchvision:resnet19", "Did you mean 'resnet1"),
        ("nowhere_to_be_found:net", "nowhere_to_be_found"),
    ],
)
def test_unknown_name_is_one_line_with_a_hint(name: str, hint: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        build_model(name, n_classes=10)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_reach_the_model_and_override_the_variant() -> None:
    torch.manual_seed(0)
    changed = build_model("resnet20", n_classes=10, options={"depth": 32})
    torch.manual_seed(0)
    assert state_digest(changed) == state_digest(build_model("resnet32", n_classes=10))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnet20", {"shortcutt": "pad"}, "Did you mean 'shortcut'?"),
        ("resnet20", {"shortcut": "none"}, "pad, conv"),
        ("resnet20", {"depth": 21}, "6n + 2"),
        ("nin", {"dropout": 1.5}, "[0, 1)"),
        ("simple_cnn", {"width": 3}, "none at all"),
        ("cnn1", {"widths": [1, 2]}, "three positive"),
        ("resnet20", {"n_classes": 3}, "got 'n_classes'"),
        ("torchvision:resnet18", {"depth": 3}, "depth"),
    ],
)
def test_options_that_do_not_fit(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_model(name, n_classes=10, options=options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "size"), [("simple_cnn", 7), ("nin", 3), ("cnn1", 21), ("torchvision:alexnet", 32)]
)
def test_too_small_images_are_refused(name: str, size: int) -> None:
    with pytest.raises(ShapeError) as caught:
        build_model(name, n_classes=10, input_shape=(3, size, size))
    assert "Resize" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "size"), [("simple_cnn", 8), ("nin", 4), ("cnn1", 22)])
def test_smallest_images_work(name: str, size: int) -> None:
    model = build_model(name, n_classes=10, input_shape=(3, size, size))
    assert model.eval()(torch.zeros(2, 3, size, size)).shape == (2, 10)


@pytest.mark.parametrize("n_classes", [0, -1])
def test_classes_must_be_positive(n_classes: int) -> None:
    with pytest.raises(ConfigError, match="positive"):
        build_model("nin", n_classes=n_classes)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "googlenet", "vit_b_32"])
def test_torchvision_models_take_classes_and_size(name: str) -> None:
    model = build_model(f"torchvision:{name}", n_classes=7, input_shape=(3, 64, 64))
    assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


def test_torchvision_needs_colour() -> None:
    with pytest.raises(ConfigError, match="3 channels"):
        build_model("torchvision:resnet18", n_classes=7, input_shape=(1, 64, 64))


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_timm_absent_says_how_to_get_it() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'geocache\[timm\]'"):
        build_model("timm:resnet18", n_classes=7)


def test_timm_models_take_classes_size_and_options() -> None:
    pytest.importorskip("timm")
    model = build_model("timm:vit_tiny_patch16_224", n_classes=7, input_shape=(3, 64, 64))
    assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    with pytest.raises(UnknownNameError, match="resnet18"):
        build_model("timm:resnet18x", n_classes=7)


@pytest.mark.parametrize(
    ("attribute", "options"),
    [("plain", {}), ("plain", {"width": 6}), ("anything", {"width": 2}), ("blind", {})],
)
def test_custom_callable_gets_the_keywords_it_takes(
    custom: str, attribute: str, options: dict[str, object]
) -> None:
    model = build_model(f"{custom}:{attribute}", n_classes=10, options=options)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    width = options.get("width")
    if width is not None:
        assert model[0].out_channels == width  # type: ignore[index, union-attr]


def test_building_leaves_a_models_buffers_as_they_were(custom: str) -> None:
    model = build_model(f"{custom}:Looks", n_classes=5)
    assert model.training
    assert model.n_calls == 0  # type: ignore[operator]


@pytest.mark.parametrize(
    ("attribute", "options", "words"),
    [
        ("blind", {}, "batch x 4"),
        ("pair", {}, "something else"),
        ("wrong", {}, "a int"),
        ("instance", {}, "function or class"),
        ("plain", {"breadth": 1}, "got 'breadth'"),
        ("nothing_there", {}, "defines"),
    ],
)
def test_custom_callables_that_do_not_fit(
    custom: str, attribute: str, options: dict[str, object], words: str
) -> None:
    with pytest.raises(GeocacheError) as caught:
        build_model(f"{custom}:{attribute}", n_classes=4, options=options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
