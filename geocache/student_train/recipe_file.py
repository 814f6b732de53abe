"""Read a recipe from TOML, with overrides, and say in one line what is wrong with it.

Order matters: syntax, then overrides, then each table by itself (pydantic), then what the tables
say about each other and the names they use. Nothing is opened, downloaded or trained before all of
it holds.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from geocache.errors import ConfigError, GeocacheError, UnknownNameError, nearest
from geocache.student_train.recipe import (
    DataTable,
    LossTable,
    Recipe,
    StudentTable,
    TeacherTable,
    TrainTable,
    ViewsTable,
)
from geocache.student_train.recipe_checks import check_recipe

__all__ = ["apply_overrides", "load_recipe", "parse_recipe"]

_TABLES: dict[str, type[BaseModel]] = {
    "": Recipe,
    "data": DataTable,
    "data.views": ViewsTable,
    "teacher": TeacherTable,
    "student": StudentTable,
    "loss": LossTable,
    "train": TrainTable,
}


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read, override and validate the recipe in `path`.

    `overrides` are `table.key=value` with a TOML value (`train.epochs=5`, `loss.1.weight=0.5`; a
    bare word is a string). Relative paths mean the recipe's folder first, then the current one.
    Raises ConfigError or UnknownNameError, one line each.
    """
    path = Path(path)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"recipe must be a readable file, got '{path}': {error.strerror}."
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"recipe must be UTF-8 text, got other bytes ({path}).") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"recipe must be valid TOML, got: {error} ({path}).") from None
    recipe = parse_recipe(apply_overrides(tables, overrides), base=path.parent, where=str(path))
    recipe._path = str(path)
    return recipe


def apply_overrides(tables: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return a copy of the tables with each `a.b=value` put in; a number indexes a list."""
    result: dict[str, Any] = _copy(tables)
    for override in overrides:
        key, equals, text = override.partition("=")
        parts = [part.strip() for part in key.split(".")]
        if not equals or not all(parts):
            raise ConfigError(
                f"--set must have the form table.key=value, got '{override}'. "
                "Example: --set train.epochs=5"
            )
        place: Any = result
        for part in parts[:-1]:
            place = _step(place, part, override)
        if isinstance(place, list):
            _step(place, parts[-1], override)
            place[int(parts[-1])] = _toml_value(text)
        else:
            place[parts[-1]] = _toml_value(text)
    return result


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value


def _step(place: Any, part: str, override: str) -> Any:
    if isinstance(place, dict):
        place = place.setdefault(part, {})
    elif isinstance(place, list) and part.isdigit() and int(part) < len(place):
        place = place[int(part)]
    else:
        known = f"0 to {len(place) - 1}" if isinstance(place, list) else "no keys"
        raise ConfigError(f"--set must name a place in the recipe, got '{part}' where there is "
                          f"{known} (--set {override}).")  # fmt: skip
    if not isinstance(place, dict | list):
        raise ConfigError(f"--set must name a key inside a table, got '{part}', a value "
                          f"(--set {override}).")  # fmt: skip
    return place


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def parse_recipe(
    tables: Mapping[str, Any], *, base: Path | None = None, where: str = "recipe"
) -> Recipe:
    """Validate the tables of a recipe and return it, paths resolved from the folder `base`.

    `where` is the file for messages. Raises ConfigError or UnknownNameError, one line each.
    """
    try:
        recipe = Recipe.model_validate(tables)
    except ValidationError as error:
        raise _explain(error, where) from None
    try:
        check_recipe(recipe)
    except GeocacheError as error:
        raise type(error)(f"{error} ({where})") from None
    return _resolve_paths(recipe, base or Path())


def _explain(error: ValidationError, where: str) -> GeocacheError:
    first = error.errors()[0]
    table, key, entry = _locate(first["loc"])
    place = f"[{table}]{entry} of {where}" if table else where
    more = f" ({error.error_count() - 1} more after this one.)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden" and table in _TABLES:
        known = tuple(_TABLES[table].model_fields)
        return UnknownNameError(
            f"recipe keys must be among {', '.join(known)}, got '{key}' ({place})."
            f"{nearest(key, known)}{more}"
        )
    if first["type"] == "missing" and isinstance(first["loc"][-1], str):
        name = f"[{key}]" if key in _TABLES else f"'{key}'"
        return ConfigError(f"recipe must have {name}, got none ({place}). Add it.{more}")
    what = first["msg"].replace("Input should be ", "").replace("Value error, ", "")
    what = what.replace("Field required", "a list of more values")
    return ConfigError(
        f"recipe key '{key}' must be {what}, got {_short(first['input'])} ({place}).{more}"
    )


def _locate(location: tuple[int | str, ...]) -> tuple[str, str, str]:
    """Return (table, key, which of several tables); deeper parts are pydantic's own."""
    table, entry = "", ""
    for part in location:
        if isinstance(part, int):
            entry = f" {part + 1}" if table in ("loss", "teacher") else ""
            continue
        longer = f"{table}.{part}" if table else part
        if longer not in _TABLES:
            return table, part, entry
        table = longer
    parent, _, key = table.rpartition(".")
    return parent, key, entry


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else "a table" if isinstance(value, dict) else text[:57] + "..."


def _resolve_paths(recipe: Recipe, base: Path) -> Recipe:
    kind, colon, folder = recipe.data.dataset.partition(":")
    dataset = recipe.data.dataset
    if colon and kind == "imagefolder":
        dataset = f"imagefolder:{_resolve(folder, base)}"
    data = recipe.data.model_copy(
        update={
            "dataset": dataset,
            **{
                n: _resolve(getattr(recipe.data, n), base)
                for n in ("root", "labels", "eval_labels")
            },
        }
    )
    student = recipe.student.model_copy(update={"weights": _resolve(recipe.student.weights, base)})
    teachers = tuple(
        teacher.model_copy(update={"weights": _resolve(teacher.weights, base)})
        for teacher in recipe.teacher
    )
    return recipe.model_copy(update={"data": data, "student": student, "teacher": teachers})


def _resolve(path: str | None, base: Path) -> str | None:
    """Prefer the recipe's folder, then the current one; what is in neither stays in the first."""
    if path is None:
        return None
    given = Path(path).expanduser()
    first, second = base / given, Path.cwd() / given
    return str((second if not first.exists() and second.exists() else first).absolute())
