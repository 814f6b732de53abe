"""Models of timm by name where it is installed: `timm:resnet18`."""

from __future__ import annotations

from typing import Any

from torch import nn

from geocache.errors import ConfigError, UnknownNameError, nearest

__all__ = ["build"]


def build(
    name: str, *, n_classes: int, input_shape: tuple[int, int, int], options: dict[str, Any]
) -> nn.Module:
    """Build the untrained timm model `name`; options go to `timm.create_model`.

    Models of a fixed input size take it from `input_shape`, unless an option says otherwise.

    Raises ConfigError when timm is not installed, UnknownNameError for a name that it lacks.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise ConfigError(
            f"model 'timm:{name}' must have timm installed, which is not. "
            "Run `pip install 'geocache[timm]'`."
        ) from None
    if not timm.is_model(name):
        known = tuple(timm.list_models())
        raise UnknownNameError(
            f"timm model must be one of its {len(known)} models, got '{name}'."
            f"{nearest(name, known)} timm.list_models() lists them."
        )
    channels, height, width = input_shape
    defaults: dict[str, Any] = {"num_classes": n_classes, "in_chans": channels}
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        defaults["img_size"] = (height, width)
    model = timm.create_model(name, pretrained=False, **{**defaults, **options})
    assert isinstance(model, nn.Module)
    return model
