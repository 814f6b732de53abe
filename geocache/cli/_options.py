"""Kinds of values on the command line, and the options that several commands share."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

__all__ = [
    "BYTES",
    "FLOATS",
    "INPUT_SHAPE",
    "KEY_VALUE",
    "SECONDS",
    "SIZE",
    "as_json",
    "eval_split",
    "options_of",
    "set_option",
    "store_option",
]

_F = TypeVar("_F", bound=Callable[..., Any])

if TYPE_CHECKING:  # click's class is generic in newer versions, and only for type checkers
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType


class _Numbers(_ParamType):
    """Numbers with commas between them; `counts` says how many there may be."""

    def __init__(self, name: str, number: type[int] | type[float], counts: tuple[int, ...]) -> None:
        self.name, self.number, self.counts = name, number, counts

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        try:
            numbers = tuple(self.number(part) for part in str(value).split(","))
        except ValueError:
            numbers = ()
        if len(numbers) not in self.counts or (self.number is int and min(numbers) < 1):
            kind = "whole numbers from 1 up" if self.number is int else "numbers"
            counts = " or ".join(map(str, self.counts))
            self.fail(f"must be {counts} {kind} with commas between, got '{value}'.", param, ctx)
        return numbers


class _KeyValue(_ParamType):
    """`KEY=VALUE` with a TOML value; a bare word is text."""

    name = "KEY=VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        key, equals, text = str(value).partition("=")
        if not equals or not key.strip():
            self.fail(f"must have the form KEY=VALUE, got '{value}'.", param, ctx)
        try:
            return key.strip(), tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            return key.strip(), text


class _Measure(_ParamType):
    """A number with a unit, such as `30d` or `50GB`, in the smallest of its units."""

    def __init__(self, name: str, units: dict[str, float], example: str) -> None:
        self.name, self.units, self.example = name, units, example

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([A-Za-z]+)", str(value))
        unit = self.units.get(match[2].lower()) if match else None
        if match is None or unit is None:
            known = ", ".join(self.units)
            self.fail(f"must be like {self.example} (units {known}), got '{value}'.", param, ctx)
        return float(match[1]) * unit


FLOATS = _Numbers("R,G,B", float, (3,))
SIZE = _Numbers("H,W", int, (1, 2))
INPUT_SHAPE = _Numbers("C,H,W", int, (3,))
KEY_VALUE = _KeyValue()
SECONDS = _Measure("AGE", {"h": 3600.0, "d": 86400.0, "w": 604800.0}, "30d")
BYTES = _Measure("SIZE", {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}, "50GB")


def options_of(pairs: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Return the given `KEY=VALUE` pairs as a table; the last of one key counts."""
    return dict(pairs)


def eval_split(dataset: str, split: str | None) -> str | None:
    """Return the split to evaluate on: the one given, `test`, or none for a single folder."""
    return split or (None if dataset.startswith("imagefolder:") else "test")


def as_json(command: _F) -> _F:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)


def store_option(command: _F) -> _F:
    """Add `--store`."""
    return click.option(
        "--store",
        metavar="DIR|s3://...",
        help="Folder or bucket of the caches [default: $GEOCACHE_STORE, or your cache folder].",
    )(command)


def set_option(command: _F) -> _F:
    """Add `--set`."""
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="TABLE.KEY=VALUE",
        help="Change a key of the recipe, as in train.epochs=5; repeatable.",
    )(command)
