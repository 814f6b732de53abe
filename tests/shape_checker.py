"""The type checker that jaxtyping's import hook applies to every function under test."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from beartype import beartype
from jaxtyping import AbstractArray, config

__all__ = ["check", "unchecked_shapes"]


@contextmanager
def unchecked_shapes() -> Iterator[None]:
    """Let functions go unchecked where they are called thousands of times in shapes seen before."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", before)


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the arrays' shapes and types when a function is called; mypy has checked the rest.

    jaxtyping calls this on stand-ins that carry a function's signature, so that taking hints away
    changes nothing elsewhere.
    """
    hints = function.__annotations__
    function.__annotations__ = {name: hint for name, hint in hints.items() if _has_shape(hint)}
    return beartype(function)


def _has_shape(hint: Any) -> bool:
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return True
    return any(_has_shape(part) for part in typing.get_args(hint))
