"""The k nearest neighbours of each local feature, nearest first: one list holds every smaller k."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from geocache.errors import ConfigError
from geocache.targets._base import (
    LocalFeatures,
    RowStorage,
    Target,
    grid_nodes,
    node_dtype,
    whole_number,
)

__all__ = ["TARGET", "NearestNeighbours"]


@dataclass(frozen=True)
class NearestNeighbours(Target):
    """Store the sorted ids of the k nearest other nodes of each node."""

    k: int
    kind: ClassVar[str] = "knn"

    @property
    def array_name(self) -> str:
        """`knn.k16`."""
        return f"{self.kind}.k{self.k}"

    @classmethod
    def from_suffix(cls, suffix: str) -> Self:
        """Read k."""
        if not suffix.startswith("k"):
            raise ConfigError(f"target 'knn' needs its k, as in knn:k=16, got '{suffix}'.")
        return cls(whole_number(suffix[1:], "knn's k"))

    def storage(self, shape: tuple[int, ...]) -> RowStorage:
        """Store (node, neighbour); needs a grid of more than k positions."""
        n = grid_nodes(shape, self.kind)
        if self.k >= n:
            raise ConfigError(
                f"knn's k must be below the layer's {n} positions, got {self.k}. "
                "Choose a smaller k or a layer with a larger grid."
            )
        return RowStorage(
            node_dtype(n), (n, self.k), ("node", "neighbour"), {"grid": list(shape[1:])}
        )

    def compute(self, features: LocalFeatures) -> np.ndarray[Any, Any]:
        """Return the lists."""
        lists = features.neighbours(self.k)
        return lists.cpu().numpy().astype(node_dtype(lists.shape[1]))

    def flaw(self, stored: np.ndarray[Any, Any]) -> str | None:
        """Look for neighbours that are none of the nodes."""
        n = stored.shape[1]
        if stored.min(initial=0) < 0 or int(stored.max(initial=0)) >= n:
            return f"holds neighbours that are not among its {n} nodes"
        return None

    def decode(self, stored: Tensor) -> Tensor:
        """Return int32 lists (batch, N, k)."""
        return stored.to(torch.int32)


TARGET = NearestNeighbours
