"""The minimum spanning tree of each map (GeoReg eq 7): one number a node holds every radius."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from geocache.targets._base import (
    LocalFeatures,
    PlainTarget,
    RowStorage,
    grid_nodes,
    node_dtype,
)

__all__ = ["TARGET", "MinimumSpanningTree"]


@dataclass(frozen=True)
class MinimumSpanningTree(PlainTarget):
    """Store the parent of each node, the root (node 0) being its own."""

    kind: ClassVar[str] = "mst"

    def storage(self, shape: tuple[int, ...]) -> RowStorage:
        """Store (node,) in the narrowest integer; needs a grid."""
        n = grid_nodes(shape, self.kind)
        return RowStorage(node_dtype(n), (n,), ("node",), {"grid": list(shape[1:])})

    def compute(self, features: LocalFeatures) -> np.ndarray[Any, Any]:
        """Return the parents."""
        tree = features.tree
        return tree.cpu().numpy().astype(node_dtype(tree.shape[1]))

    def decode(self, stored: Tensor) -> Tensor:
        """Return int32 parents (batch, N)."""
        return stored.to(torch.int32)


TARGET = MinimumSpanningTree
