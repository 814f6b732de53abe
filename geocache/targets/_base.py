"""What a target is: a statistic of one tapped tensor, stored row by row, decoded batch by batch.

A target is a frozen dataclass; its fields are its parameters and go into the name of its array.
It says how a row is stored, computes a batch of rows, and turns a stored batch into what losses
take. Element types are those that torch indexes on every device: no unsigned 16-bit.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from geocache.errors import ConfigError, NumericError, ShapeError
from geocache.geometry import (
    affinity_contrasts,
    check_finite,
    minimum_spanning_tree,
    nearest_neighbours,
)
from geocache.targets._names import written_name

if TYPE_CHECKING:
    from geocache.targets._stored import StoredRows

__all__ = ["LocalFeatures", "PlainTarget", "RowStorage", "Target", "node_dtype", "to_half"]


@dataclass(frozen=True)
class RowStorage:
    """How one row of a target is stored: element type, shape, names of the axes, how to decode."""

    dtype: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    packed: bool = False

    @property
    def bytes_per_row(self) -> int:
        """Bytes of one row before compression."""
        n_values = math.prod(self.shape)
        return -(-n_values // 8) if self.packed else n_values * np.dtype(self.dtype).itemsize


class LocalFeatures:
    """One batch of a tapped tensor, with the geometry that several targets share computed once."""

    def __init__(
        self,
        features: Float[Tensor, "batch channels *grid"],
        where: str,
        radii: tuple[int, ...] = (),
        tree: Int[Tensor, "batch n"] | None = None,
    ) -> None:
        """Hold `features`; `radii` are those whose affinities will be asked for.

        tree: the stored spanning tree, where there is one; affinities then belong to it.

        Raises NumericError, naming `where`, if a value is NaN or infinite.
        """
        check_finite(features, where)
        self.features = features.detach()
        self.where = where
        self._radii = radii
        self._affinities: dict[int, Tensor] = {}
        self._neighbours: Tensor | None = None
        self._tree = tree

    @property
    def tree(self) -> Int[Tensor, "batch n"]:
        """The minimum spanning tree's parents."""
        if self._tree is None:
            self._tree = minimum_spanning_tree(self.features)
        return self._tree

    def affinity(self, radius: int) -> Float[Tensor, "batch n"]:
        """J within `radius` hops on the tree, computed for all expected radii at once."""
        if radius not in self._affinities:
            radii = tuple(sorted({*self._radii, radius}))
            x = self.features
            values = affinity_contrasts(x, parents=self.tree.to(x.device), radii=radii)
            self._affinities = dict(zip(radii, values.unbind(1), strict=True))
        return self._affinities[radius]

    def neighbours(self, k: int) -> Int[Tensor, "batch n k"]:
        """The k nearest neighbours; a shorter list is the front of a longer one."""
        if self._neighbours is None or self._neighbours.shape[2] < k:
            self._neighbours = nearest_neighbours(self.features, k)
        return self._neighbours[:, :, :k]


class Target(ABC):
    """A per-row statistic of the teacher; subclasses are frozen dataclasses, one file each."""

    kind: ClassVar[str]
    """The registered name, which is the module's; for a class of the user's, `module:Class`."""
    needs_layer: ClassVar[bool] = True
    """Whether it is measured on a tapped layer (or on the model's output)."""

    @property
    @abstractmethod
    def array_name(self) -> str:
        """The kind, then `.` and the parameters in letters, digits, `_` and `-` if it has any."""

    @property
    def name(self) -> str:
        """The array's name as a cache and a loss's `target` have it, legal as a file anywhere.

        It is `array_name`, with a user's `module:Class` written `module~Class`.
        """
        return written_name(self.kind, self.array_name)

    @classmethod
    @abstractmethod
    def from_suffix(cls, suffix: str) -> Self:
        """Build it from what follows `kind.` in an array's name; ConfigError if unreadable."""

    @abstractmethod
    def storage(self, shape: tuple[int, ...]) -> RowStorage:
        """Say how a row is stored for a tapped tensor of `shape` (channels, *grid) an image.

        Raises ShapeError or ConfigError when the target is not defined on that shape.
        """

    @abstractmethod
    def compute(self, features: LocalFeatures) -> np.ndarray[Any, Any]:
        """Compute a batch of rows in the stored type and shape."""

    @abstractmethod
    def decode(self, stored: Tensor) -> Tensor:
        """Turn a batch as stored into what losses take, on the batch's device."""

    def sources(self) -> tuple[tuple[str, ...], ...]:
        """Return from which targets of its layer it follows: alternatives, the best first.

        By default from a stored activation. What is derived is as exact as what it came from: a
        float16 activation rounds by 2^-11. From 8-bit activations nothing is derived.
        """
        return (("activation.float32",), ("activation",)) if self.needs_layer else ()

    def derive(self, stored: StoredRows, sources: tuple[str, ...]) -> np.ndarray[Any, Any]:
        """Compute a batch of rows, as stored, from one of the alternatives of `sources`."""
        return self.compute(stored.features(sources[-1]))

    def flaw(self, stored: np.ndarray[Any, Any]) -> str | None:
        """Return what a batch of rows as stored cannot hold, None where all is possible.

        By default values that are not finite.
        """
        if stored.dtype.kind == "f" and not bool(np.isfinite(stored).all()):
            return "holds values that are not finite"
        return None

    def for_array(self, attributes: Mapping[str, Any]) -> Target:
        """Return the target that decodes an array with these attributes: by default itself."""
        return self

    @property
    def parameters(self) -> dict[str, Any]:
        """Its fields, as they go into the array's attributes."""
        return {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)  # type: ignore[arg-type]
        }


class PlainTarget(Target):
    """A target without parameters: its array is named by its kind alone."""

    @property
    def array_name(self) -> str:
        """The kind."""
        return self.kind

    @classmethod
    def from_suffix(cls, suffix: str) -> Self:
        """Refuse a suffix: there are no parameters to read."""
        if suffix:
            raise ConfigError(f"target '{cls.kind}' takes no parameters, got '{suffix}'.")
        return cls()


def node_dtype(n: int) -> str:
    """Return the narrowest type that numbers n nodes."""
    return "uint8" if n <= 256 else "int16" if n <= 32_768 else "int32"


def grid_nodes(shape: tuple[int, ...], kind: str) -> int:
    """Return N for a layer of `shape`; raise ShapeError when it has no grid."""
    if len(shape) < 2:
        raise ShapeError(
            f"target '{kind}' must be measured on a layer with a spatial grid, got shape {shape}. "
            "`geocache layers` lists the layers that have one."
        )
    return math.prod(shape[1:])


def to_half(values: Tensor, where: str, remedy: str) -> np.ndarray[Any, Any]:
    """Round to float16; raise NumericError when a value is beyond its largest, 65504."""
    half = values.to(torch.float16)
    if not bool(torch.isfinite(half).all()):
        largest = float(values.abs().max())
        raise NumericError(
            f"values stored as float16 must not exceed 65504, got {largest:.6g} ({where}). {remedy}"
        )
    return half.cpu().numpy()


def whole_number(text: str, what: str) -> int:
    """Read a whole number from 1 up; raise ConfigError otherwise."""
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{what} must be a whole number from 1 up, got '{text}'.")
    return int(text)
