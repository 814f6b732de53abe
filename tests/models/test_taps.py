"""Taps read what a layer returned, whatever happens to the tensor afterwards."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geocache.errors import ConfigError, ShapeError, UnknownNameError
from geocache.models import Taps, build_model, list_layers


class Tricky(nn.Module):
    """Changes outputs in place, calls modules twice, never, and from two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.add = nn.Conv2d(4, 4, 1)
        self.alias = self.add
        self.unused = nn.Conv2d(4, 4, 1)
        self.pair = Pair()
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        y = self.relu(self.second(x))
        z = self.add(y)
        z += x
        z, _ = self.pair(z)
        return self.head(z.mean((2, 3)))


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.fixture
def net() -> Tricky:
    torch.manual_seed(0)
    return Tricky()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def reference(net: Tricky, x: Tensor) -> dict[str, Tensor]:
    """The forward of `Tricky` without one in-place operation."""
    first = F.conv2d(x, net.first.weight, net.first.bias, padding=1)
    relu1 = first.relu()
    second = F.conv2d(relu1, net.second.weight, net.second.bias, padding=1)
    relu2 = second.relu()
    add = F.conv2d(relu2, net.add.weight, net.add.bias)
    head = F.linear((add + relu1).mean((2, 3)), net.head.weight, net.head.bias)
    return {
        "first": first,
        "relu#1": relu1,
        "second": second,
        "relu#2": relu2,
        "add": add,
        "alias": add,
        "first#1": first,
        "head": head,
    }


@pytest.mark.parametrize("mode", ["grad", "no_grad", "inference"])
@pytest.mark.parametrize("training", [True, False])
def test_in_place_and_second_calls_do_not_change_what_is_read(
    net: Tricky, images: Tensor, mode: str, training: bool
) -> None:
    net.train(training)
    expected = {k: v.detach() for k, v in reference(net, images).items()}
    contexts = {"grad": torch.enable_grad, "no_grad": torch.no_grad}
    with contexts.get(mode, torch.inference_mode)(), Taps(net, expected) as taps:
        for _ in range(3):
            logits, features = taps(images)
            assert list(features) == list(expected)
            torch.testing.assert_close(logits, expected["head"])
            for path in expected:
                torch.testing.assert_close(features[path], expected[path], msg=path)


def test_only_taps_changed_in_place_are_copied_after_the_first_forward(
    net: Tricky, images: Tensor
) -> None:
    returned: dict[str, Tensor] = {}
    handles = [
        getattr(net, name).register_forward_hook(
            lambda _m, _i, output, name=name: returned.__setitem__(name, output)
        )
        for name in ("first", "add", "head")
    ]
    with Taps(net, ["first", "add", "head"]) as taps:
        for _ in range(2):
            _, features = taps(images)
    assert features["head"] is returned["head"]
    assert features["first"] is not returned["first"]
    assert features["add"] is not returned["add"]
    for handle in handles:
        handle.remove()


def test_gradients_pass_through_taps(net: Tricky, images: Tensor) -> None:
    paths = ["first", "relu#2", "add"]
    for _ in range(2):
        expected = sum(reference(net, images)[p].square().sum() for p in paths)
        wanted = torch.autograd.grad(expected, [net.first.weight, net.add.weight])  # type: ignore[arg-type]
        with Taps(net, paths) as taps:
            for _ in range(2):
                _, features = taps(images)
                loss = sum(f.square().sum() for f in features.values())
                got = torch.autograd.grad(loss, [net.first.weight, net.add.weight])  # type: ignore[arg-type]
                torch.testing.assert_close(got, wanted)


def test_a_branch_taken_later_is_noticed() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.scale(x)
            z = y.relu_() if x.mean() > 0 else y.relu()
            return z.mean((2, 3))

    net = Branching()
    images = torch.rand(2, 3, 4, 4)
    with torch.no_grad(), Taps(net, ["scale"]) as taps:
        taps(-images)
        for x in (images, -images, images):
            _, features = taps(x)
            expected = F.conv2d(x, net.scale.weight, net.scale.bias)
            torch.testing.assert_close(features["scale"], expected)


def test_training_forward_runs_once(images: Tensor) -> None:
    model = build_model("resnet20", n_classes=10).train()
    with Taps(model, ["conv1", "bn1", "layer2"]) as taps:
        for _ in range(3):
            taps(images)
    assert model.bn1.num_batches_tracked == 3  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("frist", UnknownNameError, "Did you mean 'first'?"),
        ("", UnknownNameError, "geocache layers"),
        ("first#0", UnknownNameError, "first#0"),
        ("firs#1", UnknownNameError, "Did you mean 'first'?"),
        ("relu", ConfigError, "Write one of relu#1, relu#2."),
        ("relu#3", ConfigError, "Write one of relu#1, relu#2."),
        ("first#2", ConfigError, "Write one of first#1."),
        ("unused", ConfigError, "never called"),
        ("pair", ShapeError, "got tuple"),
    ],
)
def test_layers_that_cannot_be_read(
    net: Tricky, images: Tensor, path: str, kind: type[Exception], words: str
) -> None:
    def read() -> None:
        with Taps(net, [path]) as taps:
            taps(images)

    with pytest.raises(kind) as caught:
        read()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not any(module._forward_hooks for module in net.modules())


def test_a_model_without_one_tensor_of_logits_is_refused(images: Tensor) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), Pair())
    with Taps(net, ["0"]) as taps, pytest.raises(ShapeError, match="logits"):
        taps(images)


def test_hooks_leave_no_trace(net: Tricky, images: Tensor) -> None:
    with Taps(net, ["first"]) as taps:
        before, _ = taps(images)
        torch.testing.assert_close(net(images), before)
    assert not any(module._forward_hooks for module in net.modules())


def test_no_paths_gives_logits_alone(net: Tricky, images: Tensor) -> None:
    with Taps(net, []) as taps:
        logits, features = taps(images)
    assert logits.shape == (2, 5)
    assert features == {}


def test_listed_names_are_the_names_that_taps_take(net: Tricky, images: Tensor) -> None:
    listed = [layer.path for layer in list_layers(net, (3, 6, 6))]
    assert listed == ["first", "relu#1", "second", "relu#2", "add", "head"]
    with Taps(net, listed) as taps:
        taps(images)
