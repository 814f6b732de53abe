"""The teacher's logits, whole (2K bytes a row) or the largest few and one figure for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from geocache.errors import ConfigError, NumericError, ShapeError
from geocache.targets._base import LocalFeatures, RowStorage, Target, to_half, whole_number

__all__ = ["TARGET", "Logits"]


@dataclass(frozen=True)
class Logits(Target):
    """Store the K logits as float16 (relative error 2^-11), or the `top` largest as float32.

    With `top` = k and `temperature` = T a row has 2k + 1 columns: the k largest logits, descending,
    equal ones by class; their class numbers; and `log sum_rest exp(t / T)` over the other classes,
    without which the mass they hold at T is lost. T is part of the name: another T is another
    array. O(K log K) a row.

    Raises ConfigError for one of the two without the other, a top below 1, and a temperature that
    is not from 0.0001 to 999999 with at most six digits, so that the name says it exactly.
    """

    top: int | None = None
    temperature: float | None = None
    kind: ClassVar[str] = "logits"
    needs_layer: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse what has no name, or no meaning."""
        if self.top is None and self.temperature is None:
            return
        if self.top is None or self.temperature is None:
            raise ConfigError(
                "target 'logits' must have both top and temperature or neither, got "
                f"top={self.top}, temperature={self.temperature}. "
                "Write logits:top=8,temperature=4."
            )
        if self.top < 1:
            raise ConfigError(f"logits' top must be a whole number from 1 up, got {self.top}.")
        # Between these %g writes no exponent.
        within = 1e-4 <= self.temperature < 1e6
        if not within or float(f"{self.temperature:g}") != self.temperature:
            raise ConfigError(
                "logits' temperature must be from 0.0001 to 999999 with at most six digits, got "
                f"{self.temperature}. The papers use 4 to 6."
            )
        # 4 and 4.0 are one target: one name, one set of attributes.
        object.__setattr__(self, "temperature", float(self.temperature))

    @property
    def array_name(self) -> str:
        """`logits`, or `logits.top8.t4`."""
        return self.kind if self.top is None else f"{self.kind}.top{self.top}.t{self.temperature:g}"

    @classmethod
    def from_suffix(cls, suffix: str) -> Self:
        """Read `top8.t2.5`: the temperature may hold a dot of its own."""
        if not suffix:
            return cls()
        top, _, temperature = suffix.partition(".")
        if top.startswith("top") and temperature.startswith("t"):
            try:
                found = cls(whole_number(top[3:], "logits' top"), float(temperature[1:]))
            except ValueError as error:
                reason = f" {error}" if isinstance(error, ConfigError) else ""
                raise ConfigError(f"'logits.{suffix}' cannot be read.{reason}") from None
            if found.array_name == f"{cls.kind}.{suffix}":
                return found
        raise ConfigError(
            f"target 'logits' must be named as in logits or logits.top8.t4, got 'logits.{suffix}'."
        )

    def storage(self, shape: tuple[int, ...]) -> RowStorage:
        """Store (class,) float16, or (column,) float32.

        Raises ShapeError when the output is not one vector an image, ConfigError when no class is
        left beside the top ones.
        """
        if len(shape) != 1:
            raise ShapeError(
                f"the teacher's output must be one vector of logits an image, got shape {shape}. "
                "Leave 'logits' out, or use a classifier."
            )
        if self.top is None:
            return RowStorage("float16", shape, ("class",))
        k = self.top
        if k >= shape[0]:
            raise ConfigError(
                f"logits' top must be below the teacher's {shape[0]} classes, got {k}. "
                "Choose fewer, or store all: target 'logits'."
            )
        columns = {
            "logit": [0, k],
            "class": [k, 2 * k],
            "log_sum_exp_of_rest_over_temperature": [2 * k, 2 * k + 1],
        }
        about = {"n_classes": shape[0], "temperature": self.temperature, "columns": columns}
        return RowStorage("float32", (2 * k + 1,), ("column",), about)

    def compute(self, features: LocalFeatures) -> np.ndarray[Any, Any]:
        """Round the logits, or sort them; raises NumericError beyond the stored type's range."""
        if self.top is None or self.temperature is None:
            return to_half(features.features, features.where, "Rescale the teacher's output layer.")
        logits = features.features.float().cpu()
        ordered, classes = torch.sort(logits, dim=1, descending=True, stable=True)
        # In NumPy, where a row's sum does not depend on the rows around it.
        rest = ordered[:, self.top :].numpy().astype(np.float64) / self.temperature
        largest = rest.max(axis=1, keepdims=True)
        mass = largest + np.log(np.exp(rest - largest).sum(axis=1, keepdims=True))
        if not bool((np.abs(mass) <= np.finfo(np.float32).max).all()):
            raise NumericError(
                f"logits divided by the temperature {self.temperature:g} must fit float32, got "
                f"{np.abs(mass).max():.6g} ({features.where}). Choose a higher temperature."
            )
        top = ordered[:, : self.top].numpy(), classes[:, : self.top].numpy()
        return np.concatenate((*top, mass), axis=1, dtype=np.float32, casting="unsafe")

    def sources(self) -> tuple[tuple[str, ...], ...]:
        """Follow from all logits, as exact as they are stored."""
        return () if self.top is None else ((self.kind,),)

    def flaw(self, stored: np.ndarray[Any, Any]) -> str | None:
        """Look for values that are not finite and, among the top ones, for what are no classes."""
        if self.top is not None:
            classes = stored[:, self.top : 2 * self.top]
            if not bool(((classes >= 0) & (classes == np.floor(classes))).all()):
                return "holds class numbers that are none"
        return super().flaw(stored)

    def decode(self, stored: Tensor) -> Tensor:
        """Return float32 logits (batch, K), or the columns (batch, 2 top + 1)."""
        return stored.float()


TARGET = Logits
