"""Find components by name: a module's name in its folder is its registered name.

Adding a component is adding a file. There is no list to extend and nothing runs at import, so
listing the names of a folder costs no import of its members.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from geocache.errors import UnknownNameError, nearest

__all__ = ["load_callable", "load_module", "module_names"]


def module_names(package: str) -> tuple[str, ...]:
    """Return the sorted names of the public modules in `package`, importing the package alone."""
    paths = importlib.import_module(package).__path__
    return tuple(sorted(m.name for m in pkgutil.iter_modules(paths) if not m.name.startswith("_")))


def load_module(package: str, name: str, kind: str) -> ModuleType:
    """Import the module `name` of `package`; `kind` is the word for it in the error.

    Raises UnknownNameError, listing the known names, when there is no such module.
    """
    known = module_names(package)
    if name not in known:
        raise UnknownNameError(
            f"{kind} must be one of {', '.join(known)} or MODULE:CALLABLE, got '{name}'."
            f"{nearest(name, known)}"
        )
    return importlib.import_module(f"{package}.{name}")


def load_callable(spec: str, kind: str) -> Any:
    """Return the attribute that `module:attribute` names, looked up from the current folder.

    Raises UnknownNameError when the module cannot be found or lacks the attribute.
    """
    module_name, _, attribute = spec.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UnknownNameError(
            f"{kind} '{spec}' must name an importable module, but '{error.name}' was not found "
            f"(looked in {here} and the environment). Run from the folder that holds it."
        ) from None
    try:
        value: Any = module
        for part in attribute.split("."):
            value = getattr(value, part)
    except AttributeError:
        public = ", ".join(n for n in vars(module) if not n.startswith("_")) or "nothing public"
        raise UnknownNameError(
            f"{kind} '{spec}' must name something that module '{module_name}' defines; "
            f"it defines {public}."
        ) from None
    return value
