"""Torchvision's classification models by name: `torchvision:resnet18`."""

from __future__ import annotations

from typing import Any

from torch import nn

from geocache.errors import ConfigError, UnknownNameError, nearest

__all__ = ["build"]


def build(
    name: str, *, n_classes: int, input_shape: tuple[int, int, int], options: dict[str, Any]
) -> nn.Module:
    """Build the untrained torchvision model `name`; options go to its constructor.

    Auxiliary heads are left out (GoogLeNet, Inception), since they make the output a tuple, and
    transformers built for one image size take it from `input_shape`; an option overrides either.

    Raises UnknownNameError for another name, ConfigError when the images do not have 3 channels.
    """
    from torchvision import models

    known = tuple(models.list_models(module=models))
    if name not in known:
        raise UnknownNameError(
            f"torchvision model must be one of its {len(known)} classification models, "
            f"got '{name}'.{nearest(name, known)} torchvision.models.list_models() lists them."
        )
    channels, height, width = input_shape
    if channels != 3:
        raise ConfigError(
            f"images must have 3 channels for torchvision models, got {channels} "
            f"(torchvision:{name}). Take a registered model or module:callable."
        )
    builder = models.get_model_builder(name)
    defaults: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        # Without init_weights both warn that its default will change.
        defaults |= {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_") and height == width:
        defaults |= {"image_size": height}
    if name.startswith("maxvit_"):
        defaults |= {"input_size": (height, width)}
    model = builder(**{"weights": None, "num_classes": n_classes, **defaults, **options})
    assert isinstance(model, nn.Module)
    return model
