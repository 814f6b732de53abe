"""Name targets: `affinity.r5` in a cache, `affinity:radius=2,5,10@layer2` on the command line."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

from geocache.errors import ConfigError, nearest
from geocache.registry import load_callable, load_module, module_names
from geocache.targets._base import Target

__all__ = ["LayerTarget", "parse_target", "target_from_name", "target_names"]

_PACKAGE = "geocache.targets"


@dataclass(frozen=True)
class LayerTarget:
    """A target and the teacher's layer it is measured on; None stands for the model's output."""

    target: Target
    layer: str | None

    @property
    def name(self) -> str:
        """The name in a cache: `layer2/affinity.r5`, or `logits`."""
        return f"{self.layer}/{self.target.array_name}" if self.layer else self.target.array_name


def target_names() -> tuple[str, ...]:
    """Return the registered kinds of targets."""
    return module_names(_PACKAGE)


def target_class(kind: str) -> type[Target]:
    """Return the class of a registered kind or of `module:Class`; raise UnknownNameError."""
    if ":" in kind:
        loaded: type[Target] = load_callable(kind, "target")
        return loaded
    found: type[Target] = load_module(_PACKAGE, kind, "target").TARGET
    return found


def target_from_name(name: str) -> LayerTarget:
    """Read a name as it stands in a cache, `LAYER/KIND.PARAMETERS`; ConfigError if unreadable."""
    layer, _, array = name.rpartition("/")
    kind, _, suffix = array.partition(".")
    return _checked(target_class(kind).from_suffix(suffix), layer or None)


def parse_target(text: str) -> list[LayerTarget]:
    """Read `KIND[:PARAMETER=VALUE[,VALUE...]]@LAYER`; a list of values gives a target for each.

    Raises ConfigError or UnknownNameError that quotes the text and names the known parameters.
    """
    head, at, layer = text.partition("@")
    kind, _, tail = head.partition(":")
    cls = target_class(kind)
    fields = {f.name: str(f.type) for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    options: dict[str, list[Any]] = {}
    key = ""
    for part in filter(None, tail.split(",")):
        name, equals, value = part.partition("=")
        if equals:
            key = name
        else:
            value = name
        if not key:
            raise ConfigError(f"target '{text}' must give its parameters as NAME=VALUE.")
        if key not in fields:
            known = tuple(fields)
            listed = ", ".join(known) or "none"
            raise ConfigError(
                f"target '{kind}' has no parameter '{key}' (in '{text}'). "
                f"Its parameters are {listed}.{nearest(key, known)}"
            )
        options.setdefault(key, []).append(_value(value, fields[key], text))
    try:
        return [
            _checked(cls(**dict(zip(options, values, strict=True))), layer if at else None)
            for values in itertools.product(*options.values())
        ]
    except TypeError:
        missing = ", ".join(f for f in fields if f not in options)
        raise ConfigError(
            f"target '{text}' must give {missing}, as in {kind}:{missing.split(', ')[0]}=..."
        ) from None


def _checked(target: Target, layer: str | None) -> LayerTarget:
    if target.needs_layer and not layer:
        raise ConfigError(
            f"target '{target.kind}' must name a layer, as in {target.kind}@layer2. "
            "`geocache layers` lists them."
        )
    if layer and not target.needs_layer:
        raise ConfigError(f"target '{target.kind}' is the model's output; leave out '@{layer}'.")
    return LayerTarget(target, layer)


def _value(text: str, annotation: str, whole: str) -> Any:
    if "int" not in annotation:
        return text
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"parameters of '{whole}' must be whole numbers from 1 up, got '{text}'.")
    return int(text)
