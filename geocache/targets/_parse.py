"""Name targets: `affinity.r5` in a cache, `affinity:radius=2,5,10@layer2` on the command line.

A class of the user's is imported when its name is read here. So only what a recipe, a command or a
caller asks for comes here, never what a cache happens to hold.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
from dataclasses import dataclass
from typing import Any

from geocache.errors import ConfigError, nearest
from geocache.registry import load_callable, load_module, module_names
from geocache.targets._base import Target
from geocache.targets._names import check_users_kind, kind_of

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
        return f"{self.layer}/{self.target.name}" if self.layer else self.target.name


def target_names() -> tuple[str, ...]:
    """Return the registered kinds of targets."""
    return module_names(_PACKAGE)


def target_class(kind: str) -> type[Target]:
    """Return the class of a registered kind or of the user's `module:Class`.

    Raises UnknownNameError when there is none, ConfigError when it is no target of that kind.
    """
    if ":" in kind:
        return _users_class(kind)
    found: type[Target] = load_module(_PACKAGE, kind, "target").TARGET
    return found


def _users_class(kind: str) -> type[Target]:
    check_users_kind(kind)
    found: Any = load_callable(kind, "target")
    if not (isinstance(found, type) and issubclass(found, Target)) or not _is_frozen(found):
        raise ConfigError(
            f"target '{kind}' must name a frozen dataclass derived from geocache.targets.Target, "
            f"got {found!r}."
        )
    if inspect.isabstract(found):
        lacking = ", ".join(sorted(found.__abstractmethods__))
        raise ConfigError(f"target '{kind}' must define {lacking}, which its class lacks.")
    stated = getattr(found, "kind", None)
    if stated != kind:
        raise ConfigError(
            f"target '{kind}' must state where it is found, since its name in a cache is made of "
            f'it, got kind = {stated!r}. Write kind: ClassVar[str] = "{kind}", or ask for it by '
            "its kind."
        )
    return found


def _is_frozen(found: type) -> bool:
    parameters = getattr(found, "__dataclass_params__", None)
    return parameters is not None and bool(parameters.frozen)


def target_from_name(name: str) -> LayerTarget:
    """Read a name as it stands in a cache, `LAYER/KIND.PARAMETERS`; import a user's `MODULE~CLASS`.

    Raises ConfigError for an unreadable name, UnknownNameError for an unknown kind.
    """
    layer, _, array = name.rpartition("/")
    written, _, suffix = array.partition(".")
    return _checked(target_class(kind_of(written)).from_suffix(suffix), layer or None)


def parse_target(text: str) -> list[LayerTarget]:
    """Read `KIND[:PARAMETER=VALUE[,VALUE...]]@LAYER`; a list of values gives a target for each.

    KIND is a registered name or the user's `module:Class`. Raises ConfigError or UnknownNameError
    that quotes the text and names the known parameters.
    """
    head, at, layer = text.partition("@")
    kind, tail = _kind_and_parameters(head)
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
    missing = [name for name in _required(cls) if name not in options]
    if missing:
        raise ConfigError(
            f"target '{text}' must give {', '.join(missing)}, as in {kind}:{missing[0]}=..."
        )
    targets = (
        cls(**dict(zip(options, values, strict=True)))
        for values in itertools.product(*options.values())
    )
    return [_checked(target, layer if at else None) for target in targets]


def _required(cls: type[Target]) -> list[str]:
    """Return the parameters that have no default."""
    return [
        f.name
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]


def _kind_and_parameters(head: str) -> tuple[str, str]:
    """Split `knn:k=3` or `module:Class:p=3`; a class is told from parameters by having no `=`."""
    kind, _, tail = head.partition(":")
    name, _, parameters = tail.partition(":")
    if name and "=" not in name and kind not in target_names():
        return f"{kind}:{name}", parameters
    return kind, tail


def _checked(target: Target, layer: str | None) -> LayerTarget:
    if target.needs_layer and not layer:
        raise ConfigError(
            f"target '{target.kind}' must name a layer, as in {target.kind}@layer2. "
            "`geocache layers` lists them."
        )
    if layer and not target.needs_layer:
        raise ConfigError(f"target '{target.kind}' is the model's output; leave out '@{layer}'.")
    suffix = target.name.partition(".")[2]
    if type(target).from_suffix(suffix) != target:
        raise ConfigError(
            f"target '{target.kind}' must read back its own name, got {target} from which "
            f"from_suffix('{suffix}') makes another. Let array_name tell every field."
        )
    return LayerTarget(target, layer)


def _value(text: str, annotation: str, whole: str) -> Any:
    if "int" in annotation:
        if not text.isdecimal() or int(text) < 1:
            raise ConfigError(
                f"parameters of '{whole}' must be whole numbers from 1 up, got '{text}'."
            )
        return int(text)
    return _number(text, whole) if "float" in annotation else text


def _number(text: str, whole: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"parameters of '{whole}' must be finite numbers, got '{text}'.")
    return value
