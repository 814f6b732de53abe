"""The affinity contrast J of each local feature (GeoReg eq 6), for one radius or one k.

J lies in [0, 1]; 16-bit fixed point errs by at most 1 / 131070 = 7.6e-6 everywhere, float16 by up
to 2.4e-4 near 1, in the same two bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from geocache.errors import ConfigError
from geocache.geometry import affinity_contrast
from geocache.targets._base import LocalFeatures, RowStorage, Target, grid_nodes, whole_number

__all__ = ["TARGET", "Affinity"]

_STEPS = 65_535
_OFFSET = 32_768


@dataclass(frozen=True)
class Affinity(Target):
    """Store J over the nodes within `radius` hops on the tree, or over the `k` nearest."""

    radius: int | None = None
    k: int | None = None
    kind: ClassVar[str] = "affinity"

    def __post_init__(self) -> None:
        """Refuse both or neither."""
        if (self.radius is None) == (self.k is None):
            raise ConfigError(
                "target 'affinity' needs either radius or k, as in affinity:radius=5."
            )

    @property
    def array_name(self) -> str:
        """`affinity.r5` or `affinity.k16`."""
        return f"{self.kind}.{f'r{self.radius}' if self.radius else f'k{self.k}'}"

    @classmethod
    def from_suffix(cls, suffix: str) -> Self:
        """Read the radius or k."""
        if suffix.startswith("r"):
            return cls(radius=whole_number(suffix[1:], "affinity's radius"))
        if suffix.startswith("k"):
            return cls(k=whole_number(suffix[1:], "affinity's k"))
        raise ConfigError(f"target 'affinity' needs radius or k, got '{suffix}'.")

    def storage(self, shape: tuple[int, ...]) -> RowStorage:
        """Store (node,) int16, linear in J, in the convention that xarray decodes by itself."""
        n = grid_nodes(shape, self.kind)
        if self.k is not None and self.k >= n:
            raise ConfigError(
                f"affinity's k must be below the layer's {n} positions, got {self.k}. "
                "Choose a smaller k or a layer with a larger grid."
            )
        scale = {"scale_factor": 1 / _STEPS, "add_offset": _OFFSET / _STEPS}
        return RowStorage("int16", (n,), ("node",), {"grid": list(shape[1:]), **scale})

    def compute(self, features: LocalFeatures) -> np.ndarray[Any, Any]:
        """Return J in fixed point."""
        x = features.features
        if self.radius is not None:
            values = affinity_contrast(x, parents=features.tree.to(x.device), radius=self.radius)
        else:
            assert self.k is not None
            lists = features.neighbours(self.k)
            values = affinity_contrast(x, neighbours=lists.to(x.device))
        steps = torch.round(values.double() * _STEPS) - _OFFSET
        return steps.to(torch.int16).cpu().numpy()

    def decode(self, stored: Tensor) -> Tensor:
        """Return float32 J (batch, N)."""
        return (stored.float() + _OFFSET) * (1 / _STEPS)


TARGET = Affinity
