"""Find and build losses by name: a module's name in this folder is its loss's name."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, cast

import pydantic

from geocache import registry
from geocache.errors import ConfigError, UnknownNameError, nearest
from geocache.student_train.losses._base import Loss

__all__ = ["build_loss", "loss_names", "loss_options"]

_PACKAGE = "geocache.student_train.losses"


def loss_names() -> tuple[str, ...]:
    """Return the registered names, sorted."""
    return registry.module_names(_PACKAGE)


def _loss_class(name: str) -> type[Loss]:
    found: Any
    if ":" in name:
        found = registry.load_callable(name, "loss")
    else:
        found = registry.load_module(_PACKAGE, name, "loss").LOSS
    is_loss = isinstance(found, type) and issubclass(found, Loss)
    if not (is_loss and dataclasses.is_dataclass(found)):
        raise ConfigError(
            f"loss '{name}' must name a dataclass derived from geocache.student_train.losses.Loss, "
            f"got {found!r}."
        )
    return cast(type[Loss], found)


def loss_options(name: str) -> tuple[str, ...]:
    """Return the names of a loss's options. Raises UnknownNameError for an unknown loss."""
    return tuple(f.name for f in dataclasses.fields(_loss_class(name)) if f.init)  # type: ignore[arg-type]


def build_loss(name: str, options: Mapping[str, Any] | None = None) -> Loss:
    """Return the loss `name` (a registered name or `module:Class`) with these options.

    Raises UnknownNameError for an unknown loss or option, naming the nearest known one, and
    ConfigError for a missing option or a value that an option does not take.
    """
    loss_class, known = _loss_class(name), loss_options(name)
    hints = typing.get_type_hints(loss_class)
    values: dict[str, Any] = {}
    for key, value in (options or {}).items():
        if key not in known:
            raise UnknownNameError(
                f"loss '{name}' must have options among {', '.join(known) or 'none at all'}, "
                f"got '{key}'.{nearest(key, known)}"
            )
        try:
            values[key] = pydantic.TypeAdapter(hints[key]).validate_python(value)
        except pydantic.ValidationError as error:
            what = error.errors()[0]["msg"].replace("Input should be ", "")
            raise ConfigError(f"loss '{name}' {key} must be {what}, got {value!r}.") from None
    missing = [
        f.name
        for f in dataclasses.fields(loss_class)  # type: ignore[arg-type]
        if f.init
        and f.name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"loss '{name}' must have the option '{missing[0]}'. Add it.")
    return loss_class(**values)
