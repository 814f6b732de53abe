"""Find and build view policies by name: a module's name in this folder is its policy's name."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

import pydantic

from geocache import registry
from geocache.data.views._base import ViewPolicy
from geocache.errors import ConfigError, UnknownNameError, nearest

__all__ = ["build_policy", "policy_names"]

_PACKAGE = "geocache.data.views"


def policy_names() -> tuple[str, ...]:
    """Return the registered names, sorted."""
    return registry.module_names(_PACKAGE)


def build_policy(name: str, options: Mapping[str, Any] | None = None) -> ViewPolicy:
    """Return the policy `name` with these options.

    Raises UnknownNameError for an unknown policy or option, naming the nearest known one, and
    ConfigError for a value that an option does not take.
    """
    found: type[ViewPolicy] = registry.load_module(_PACKAGE, name, "view policy").POLICY
    known = tuple(f.name for f in dataclasses.fields(found))
    hints = typing.get_type_hints(found)
    values = {}
    for key, value in (options or {}).items():
        if key not in known:
            raise UnknownNameError(
                f"view policy '{name}' must have options among {', '.join(known) or 'none'}, got "
                f"'{key}'.{nearest(key, known)}"
            )
        try:
            values[key] = pydantic.TypeAdapter(hints[key]).validate_python(value)
        except pydantic.ValidationError as error:
            what = error.errors()[0]["msg"].replace("Input should be ", "")
            raise ConfigError(
                f"view policy '{name}' {key} must be {what}, got {value!r}."
            ) from None
    try:
        return found(**values)
    except TypeError:
        missing = [
            f.name
            for f in dataclasses.fields(found)
            if f.name not in values
            and f.default is dataclasses.MISSING
            and f.default_factory is dataclasses.MISSING
        ]
        raise ConfigError(
            f"view policy '{name}' must have the option '{missing[0]}'. Add it."
        ) from None
