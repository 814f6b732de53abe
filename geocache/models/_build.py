"""Build a model by name: registered, `torchvision:NAME`, `timm:NAME` or `module:callable`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from geocache.errors import ConfigError, ShapeError, UnknownNameError, nearest
from geocache.models import _timm, _torchvision
from geocache.models._trace import BATCH, trace
from geocache.registry import load_callable, load_module, module_names

__all__ = ["build_model", "model_names"]

PACKAGE = "geocache.models"
SOURCES = {"torchvision": _torchvision.build, "timm": _timm.build}


def model_names() -> tuple[str, ...]:
    """Return the sorted names of the registered models: modules of this folder and variants."""
    return tuple(sorted(_registered()))


def build_model(
    name: str,
    *,
    n_classes: int,
    input_shape: tuple[int, int, int] = (3, 32, 32),
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build the model `name` with fresh weights, drawn from torch's generator, in train mode.

    Args:
        name: a name of `model_names()`, `torchvision:NAME`, `timm:NAME`, or `module:callable`
            found from the current folder. A callable gets `n_classes` and `input_shape` where its
            signature has them, each option as a keyword, and returns a module.
        n_classes: number of logits, at least 1.
        input_shape: (channels, height, width) of an image.
        options: keywords of the model's own, such as `{"shortcut": "conv"}`.

    Raises UnknownNameError for an unknown name, ConfigError for an argument or option that the
    model does not take, ShapeError when it cannot process such images or does not return
    (batch, n_classes) logits.
    """
    if n_classes < 1 or len(input_shape) != 3 or min(input_shape) < 1:
        raise ConfigError(
            f"n_classes and input_shape must be positive, got {n_classes} and "
            f"{tuple(input_shape)} (model '{name}')."
        )
    keywords: dict[str, Any] = {"n_classes": n_classes, "input_shape": input_shape}
    options = dict(options or {})
    source, _, rest = name.partition(":")
    if source in SOURCES and rest:
        try:
            model = SOURCES[source](rest, **keywords, options=options)
        except TypeError as error:
            raise ConfigError(f"options of model '{name}' must fit it: {error}.") from error
    elif rest:
        model = _custom(name, keywords, options)
    else:
        build, variant = _find(name)
        _check_options(build, options, name)
        model = build(**keywords, **{**variant, **options})
    shape, _ = trace(model, input_shape)
    if shape != (BATCH, n_classes):
        got = "something else" if shape is None else " x ".join(map(str, ("batch", *shape[1:])))
        raise ShapeError(
            f"model '{name}' must return logits of shape batch x {n_classes}, one for each class, "
            f"got {got}. Give it as many outputs as the data has classes."
        )
    return model


def _registered() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return name -> (module, options) of all registered models."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for module_name in module_names(PACKAGE):
        module = load_module(PACKAGE, module_name, "model")
        found.setdefault(module_name, (module_name, {}))
        for variant, options in getattr(module, "VARIANTS", {}).items():
            found[variant] = (module_name, options)
    return found


def _find(name: str) -> tuple[Callable[..., nn.Module], dict[str, Any]]:
    registered = _registered()
    if name not in registered:
        known = tuple(sorted(registered))
        raise UnknownNameError(
            f"model must be one of {', '.join(known)}, torchvision:NAME, timm:NAME or "
            f"MODULE:CALLABLE, got '{name}'.{nearest(name, known)}"
        )
    module_name, options = registered[name]
    build: Callable[..., nn.Module] = load_module(PACKAGE, module_name, "model").build
    return build, options


def _custom(name: str, keywords: dict[str, Any], options: dict[str, Any]) -> nn.Module:
    build = load_callable(name, "model")
    if not callable(build) or isinstance(build, nn.Module):
        raise ConfigError(
            f"model '{name}' must be a function or class that returns a torch module, "
            f"got a {type(build).__name__}. Name the function that builds it."
        )
    accepted = _keywords(build)
    _check_options(build, options, name)
    model = build(
        **{k: v for k, v in keywords.items() if accepted is None or k in accepted}, **options
    )
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model '{name}' must return a torch module, got a {type(model).__name__}."
        )
    return model


def _check_options(build: Callable[..., object], options: dict[str, Any], name: str) -> None:
    accepted = _keywords(build)
    if accepted is None:
        return
    own = tuple(k for k in accepted if k not in ("n_classes", "input_shape"))
    for option in options:
        if option not in own:
            raise ConfigError(
                f"options of model '{name}' must be among {', '.join(own) or 'none at all'}, "
                f"got '{option}'.{nearest(option, own)}"
            )


def _keywords(function: Callable[..., object]) -> tuple[str, ...] | None:
    """Return the names that `function` takes as keywords, None when it takes any."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return tuple(p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD))
