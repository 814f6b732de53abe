"""Listing layers leaves the model as it was and describes each feature."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from geocache.errors import ShapeError
from geocache.models import LayerInfo, build_model, list_layers, state_digest


def test_simple_cnn_is_described_layer_by_layer() -> None:
    layers = {
        layer.path: layer
        for layer in list_layers(build_model("simple_cnn", n_classes=10), (3, 32, 32))
    }
    assert layers["conv2"] == LayerInfo(
        path="conv2", kind="Sequential", shape=(32, 16, 16), n=256, channels=32, row_bytes=32_768
    )
    assert layers["fc1"] == LayerInfo(
        path="fc1", kind="Sequential", shape=(64,), n=1, channels=64, row_bytes=256
    )


def test_model_state_mode_and_generator_stay_as_they_were() -> None:
    model = build_model("nin", n_classes=10)
    model.conv1.eval()  # type: ignore[operator, union-attr]
    digest, state = state_digest(model), torch.get_rng_state()
    list_layers(model, (3, 32, 32))
    assert state_digest(model) == digest
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not model.conv1.training  # type: ignore[union-attr]
    assert not any(module._forward_hooks for module in model.modules())


class Odd(nn.Module):
    """Tokens, a scalar, a tuple, and a value that only real tensors have."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 6, 4, stride=4)
        self.tokens = nn.Identity()
        self.scalar = nn.Flatten(0)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.tokens(self.embed(x).flatten(2).transpose(1, 2))
        self.scalar(tokens)
        if float(tokens.mean()) > 1e9:
            raise AssertionError
        out: Tensor = self.head(tokens.mean(1))
        return out


def test_tokens_are_features_and_shapes_without_a_batch_are_left_out() -> None:
    layers = {layer.path: layer for layer in list_layers(Odd(), (3, 8, 12))}
    assert list(layers) == ["embed", "tokens", "head"]
    assert (layers["tokens"].shape, layers["tokens"].n, layers["tokens"].channels) == ((6, 6), 6, 6)


def test_images_that_do_not_fit_are_one_line() -> None:
    with pytest.raises(ShapeError, match="3x16x16") as caught:
        list_layers(build_model("simple_cnn", n_classes=10), (3, 16, 16))
    assert "\n" not in str(caught.value)
