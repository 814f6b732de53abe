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

from geocache.data.datasets import dataset_names
from geocache.data.views import CELL_ROWS
from geocache.errors import ConfigError, GeocacheError, UnknownNameError, nearest
from geocache.models import model_names
from geocache.student_train.losses import loss_options
from geocache.student_train.recipe import (
    DataTable,
    LossTable,
    Recipe,
    StudentTable,
    TeacherTable,
    TrainTable,
    ViewsTable,
    required_targets,
)

__all__ = ["apply_overrides", "load_recipe", "parse_recipe"]

OWN = ("binary", "values")
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
        _check_names(recipe)
        _check_terms(recipe)
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


def _check_names(recipe: Recipe) -> None:
    _known(recipe.data.dataset, dataset_names(), "data.dataset")
    _known(recipe.student.model, model_names(), "student.model")
    recipe.data.views.build()
    for teacher in recipe.teacher:
        if teacher.model is not None:
            _known(teacher.model, model_names(), f"[teacher] '{teacher.name}' model")
        elif teacher.cache is None:
            raise ConfigError(
                f"[teacher] '{teacher.name}' must have a model, or the cache of imported targets, "
                "got neither. Write model = 'NAME', or cache = 'KEY'."
            )
        elif teacher.weights or teacher.options or teacher.n_classes:
            raise ConfigError(
                f"[teacher] '{teacher.name}' must have a model beside weights, options or "
                "n_classes, got none. Add it, or leave the cache alone."
            )
    names = [teacher.name for teacher in recipe.teacher]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"[[teacher]] tables must have different names, got '{twice}' twice. Give each a name."
        )
    if recipe.teacher and (recipe.student.mean or recipe.student.std):
        raise ConfigError(
            "[student] must not have mean or std beside a [teacher], whose normalisation the "
            "student shares. Remove them."
        )


def _known(name: str, known: tuple[str, ...], kind: str) -> None:
    if ":" not in name and name not in known:
        raise UnknownNameError(
            f"{kind} must be one of {', '.join(known)} or MODULE:CALLABLE, got '{name}'."
            f"{nearest(name, known)}"
        )


def _check_terms(recipe: Recipe) -> None:
    names = tuple(teacher.name for teacher in recipe.teacher)
    for number, term in enumerate(recipe.loss, 1):
        place = f"[[loss]] {number}, '{term.name}'"
        own = tuple(key for key in LossTable.model_fields if key != "options")
        known = (*own, *loss_options(term.name))
        for key in term.options:
            if key not in known:
                raise UnknownNameError(
                    f"{place} must have keys among {', '.join(known)}, got '{key}'."
                    f"{nearest(key, known)}"
                )
        loss = term.build()
        if term.weight is not None and term.share is not None:
            raise ConfigError(f"{place} must have weight or share, got both. Remove one.")
        if term.share is not None and (term.name == "cross_entropy" or loss.reads_labels in OWN):
            raise ConfigError(
                f"{place} must have a weight, got share = {term.share}: shares are measured "
                "against cross-entropy itself, or the loss of own labels. Write weight instead."
            )
        if loss.needs_layer and not loss.targets() and term.student and not term.teacher:
            continue  # it looks at the student and the labels alone
        if loss.needs_layer and not (term.student and term.teacher):
            raise ConfigError(
                f"{place} must name the layers it compares, got student = {term.student!r} and "
                f"teacher = {term.teacher!r}. `geocache layers MODEL` lists them."
            )
        if recipe.train.devices > 1 and not loss.row_by_row:
            raise ConfigError(
                f"{place} must have one device, got train.devices = {recipe.train.devices}: it "
                "compares the rows of a batch with each other, and each device would see a part."
            )
        if not loss.needs_layer and term.student is not None:
            raise ConfigError(
                f"{place} must not name a layer, got student = '{term.student}': it compares "
                "logits. Remove it."
            )
        teacher, layer = term.teacher_layer()
        if loss.targets(layer) and not names:
            raise ConfigError(
                f"{place} must have a teacher, got a recipe without [teacher]. Add it."
            )
        if teacher is not None and teacher not in names:
            raise UnknownNameError(
                f"{place} must name a [teacher] of this recipe ({', '.join(names) or 'none'}), "
                f"got '{teacher}'.{nearest(teacher, names)}"
            )
    _check_labels(recipe)
    _check_mixing(recipe)
    required_targets(recipe)


def _check_mixing(recipe: Recipe) -> None:
    """Refuse what cannot go with views that mix two images."""
    data, policy = recipe.data, recipe.data.views.policy
    if recipe.data.views.build().mixing is None:
        return
    for term in recipe.loss:
        loss = term.build()
        if loss.reads_labels == "class" and not loss.reads_both_labels:
            raise ConfigError(
                f"loss '{term.name}' must have one class an image, got views by '{policy}', which "
                "mix two. Leave the loss out, or take views that show one image."
            )
    if data.fraction is not None:
        raise ConfigError(
            f"data.fraction must not stand beside views by '{policy}', got {data.fraction}: images "
            "outside the fraction would be mixed in. Build a data set of that fraction."
        )
    if data.limit is not None and data.limit % CELL_ROWS:
        raise ConfigError(
            f"data.limit must be a multiple of {CELL_ROWS} beside views by '{policy}', which mix "
            f"rows of such cells, got {data.limit}. "
            f"Take {-(-data.limit // CELL_ROWS) * CELL_ROWS}."
        )


def _check_labels(recipe: Recipe) -> None:
    kinds = {term.name: term.build().reads_labels for term in recipe.loss}
    own = [name for name, kind in kinds.items() if kind in OWN]
    if recipe.data.labels is None:
        if own:
            raise ConfigError(
                f"data.labels must name a .npy file for loss '{own[0]}', got none. Add it."
            )
        return
    if not own or len({kinds[name] for name in own}) > 1 or "class" in kinds.values():
        raise ConfigError(
            "data.labels must go with losses of one kind of own labels, binary_cross_entropy or "
            f"mean_squared_error, and none of classes, got {', '.join(kinds)}."
        )


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
