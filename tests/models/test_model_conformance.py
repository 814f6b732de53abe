"""What every registered model promises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from geocache.models import (
    Taps,
    build_model,
    list_layers,
    load_weights,
    model_names,
    state_digest,
)

NAMES = model_names()
# Counts with 10 classes at 3x32x32: printed by the papers where FORMULAS.md gives them, else the
# sum over the layers (weights + biases + two values a batch norm channel).
PARAMETERS = {
    "simple_cnn": 145_578,
    "nin": 966_986,
    "cnn1": 15_050,
    "cnn1_a": 57_994,
    "cnn1_h": 227_594,
    "cnn1_l": 6_442,
    "resnet_cifar": 269_722,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
}
CONV_SHORTCUT = {20: 272_474, 32: 466_906, 44: 661_338, 56: 855_770, 110: 1_730_714}


def build(name: str, **keywords: object) -> nn.Module:
    torch.manual_seed(3)
    return build_model(name, n_classes=10, **keywords)  # type: ignore[arg-type]


def images(n: int = 2, size: int = 32) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_those_of_the_docstring(name: str) -> None:
    assert count(build(name)) == PARAMETERS[name]


@pytest.mark.parametrize("depth", CONV_SHORTCUT)
def test_parameters_of_resnets_with_1x1_shortcuts(depth: int) -> None:
    model = build(f"resnet{depth}", options={"shortcut": "conv"})
    assert count(model) == CONV_SHORTCUT[depth]


@pytest.mark.parametrize("name", NAMES)
def test_forward_gives_finite_logits_and_gradients_everywhere(name: str) -> None:
    model = build(name)
    logits = model(images(4))
    assert logits.shape == (4, 10)
    assert logits.isfinite().all()
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.isfinite().all(), path
        assert parameter.grad.any(), path


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_weights_and_other_seed_others(name: str) -> None:
    first, second = build(name), build(name)
    assert state_digest(first) == state_digest(second)
    torch.manual_seed(4)
    assert state_digest(build_model(name, n_classes=10)) != state_digest(first)


@pytest.mark.parametrize("name", NAMES)
def test_model_adapts_to_the_image_size(name: str) -> None:
    model = build(name, input_shape=(1, 40, 52))
    assert model.eval()(torch.zeros(3, 1, 40, 52)).shape == (3, 10)


@pytest.mark.parametrize("name", NAMES)
def test_model_comes_in_train_mode(name: str) -> None:
    assert all(module.training for module in build(name).modules())


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_is_listed_and_its_tap_is_what_the_layer_returned(name: str) -> None:
    model = build(name).eval()
    listed = list_layers(model, (3, 32, 32))
    assert all(not module.training for module in model.modules())
    expected: dict[str, Tensor] = {}

    def hook_for(path: str) -> object:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            expected[path] = output.clone()

        return hook

    handles = [
        module.register_forward_hook(hook_for(path))  # type: ignore[arg-type]
        for path, module in model.named_modules()
        if path
    ]
    with torch.no_grad():
        plain = model(images())
    for handle in handles:
        handle.remove()
    assert [layer.path for layer in listed] == list(expected)
    assert listed[-1].shape == (10,)
    with Taps(model, expected) as taps, torch.no_grad():
        for _ in range(2):  # the first forward copies, the second only where it must
            logits, features = taps(images())
            torch.testing.assert_close(logits, plain, rtol=0, atol=0)
            for layer in listed:
                assert features[layer.path].shape[1:] == layer.shape
                assert layer.n * layer.channels * 4 == layer.row_bytes
                torch.testing.assert_close(
                    features[layer.path], expected[layer.path], rtol=0, atol=0, msg=layer.path
                )


@pytest.mark.parametrize("name", NAMES)
def test_weights_survive_a_file(name: str, tmp_path: object) -> None:
    model = build(name)
    torch.save(model.state_dict(), f"{tmp_path}/weights.pt")
    torch.manual_seed(9)
    other = build_model(name, n_classes=10)
    load_weights(other, f"{tmp_path}/weights.pt")
    assert state_digest(other) == state_digest(model)


@pytest.mark.parametrize(
    ("name", "grids"),
    [
        ("simple_cnn", {"conv1": (32, 32), "conv2": (32, 16), "conv3": (64, 8), "pool3": (64, 4)}),
        (
            "nin",
            {
                "conv1": (192, 32),
                "cccp1": (160, 32),
                "cccp2": (96, 32),
                "pool1": (96, 16),
                "conv2": (192, 16),
                "cccp3": (192, 16),
                "cccp4": (192, 16),
                "pool2": (192, 8),
                "conv3": (192, 8),
                "cccp5": (192, 8),
                "cccp6": (10, 8),
            },
        ),
        ("resnet20", {"layer1": (16, 32), "layer2": (32, 16), "layer3": (64, 8)}),
        ("cnn1", {"block1": (8, 15), "block2": (16, 6), "block3": (32, 2)}),
        ("cnn1_a", {"block1": (16, 15), "block2": (32, 6), "block3": (64, 2)}),
    ],
)
def test_grids_are_those_of_the_papers(name: str, grids: dict[str, tuple[int, int]]) -> None:
    shapes = {layer.path: layer.shape for layer in list_layers(build(name), (3, 32, 32))}
    for path, (channels, side) in grids.items():
        assert shapes[path] == (channels, side, side)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("simple_cnn", ["conv1", "conv2", "conv3", "fc1"]),
        ("nin", ["conv1", "cccp1", "cccp2", "conv2", "cccp3", "cccp4", "conv3", "cccp5"]),
        ("resnet20", ["relu", "layer1", "layer2", "layer2.1", "layer3"]),
        ("cnn1", ["block1", "block2", "block3", "fc1"]),
    ],
)
def test_named_layers_are_read_after_their_relu(name: str, layers: list[str]) -> None:
    with Taps(build(name), layers) as taps:
        _, features = taps(images(8))
    for path in layers:
        assert features[path].min() == 0, path
        assert features[path].max() > 0, path


def test_logits_may_be_negative() -> None:
    for name in NAMES:
        assert build(name).eval()(images(8)).min() < 0, name


def test_pad_shortcut_subsamples_and_pads_zero_channels_on_both_sides() -> None:
    model = build("resnet20")
    x = torch.randn(1, 16, 5, 5)
    out = model.layer2[0].shortcut(x)  # type: ignore[index, operator, union-attr]
    assert out.shape == (1, 32, 3, 3)
    torch.testing.assert_close(out[:, 8:24], x[:, :, ::2, ::2], rtol=0, atol=0)
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


def test_fresh_logits_depend_on_the_image() -> None:
    """Torch's default weights shrink each layer; nine of them leave NiN's logits constant."""
    for name in NAMES:
        assert build(name).eval()(images(8)).std(0).mean() > 1e-3, name
