"""The Gram matrix of the normalised channel maps: all that polynomial NST needs of the teacher."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from geocache.geometry import channel_gram
from geocache.targets._base import LocalFeatures, RowStorage, to_half
from geocache.targets._interpolated import InterpolatedTarget

__all__ = ["TARGET", "Gram"]


@dataclass(frozen=True)
class Gram(InterpolatedTarget):
    """Store the upper triangle of G = (1/C) sum_k f^k f^kT (N x N, NST eq 8) as float16.

    `grid`: interpolate the map to `HxW` first, for students with a smaller grid than the teacher's.
    """

    kind: ClassVar[str] = "gram"

    def storage(self, shape: tuple[int, ...]) -> RowStorage:
        """Store (pair,), i <= j row by row; needs a grid."""
        n, attributes = self.nodes(shape)
        return RowStorage("float16", (n * (n + 1) // 2,), ("pair",), attributes)

    def compute(self, features: LocalFeatures) -> np.ndarray[Any, Any]:
        """Multiply and keep the upper triangle."""
        gram = channel_gram(self.maps(features))
        rows, columns = torch.triu_indices(*gram.shape[1:], device=gram.device)
        return to_half(gram[:, rows, columns], features.where, "")

    def decode(self, stored: Tensor) -> Tensor:
        """Return the full float32 matrix (batch, N, N)."""
        n = (math.isqrt(8 * stored.shape[1] + 1) - 1) // 2
        rows, columns = torch.triu_indices(n, n, device=stored.device)
        place = torch.empty(n, n, dtype=torch.int64, device=stored.device)
        numbers = torch.arange(stored.shape[1], device=stored.device)
        place[rows, columns] = numbers
        place[columns, rows] = numbers
        return stored.float().index_select(1, place.flatten()).view(-1, n, n)


TARGET = Gram
