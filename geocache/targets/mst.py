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

    def flaw(self, stored: np.ndarray[Any, Any]) -> str | None:
        """Look for parents that are none of the nodes, and nodes that no path joins to the root."""
        n = stored.shape[1]
        parents = stored.astype(np.int64)
        if parents.min(initial=0) < 0 or parents.max(initial=0) >= n:
            return f"holds parents that are not among its {n} nodes"
        # Each step doubles how far up every node looks; the root is its own parent.
        above = parents
        for _ in range(max(1, (n - 1).bit_length())):
            above = np.take_along_axis(above, above, axis=1)
        return "holds graphs that are no trees" if above.any() else None

    def decode(self, stored: Tensor) -> Tensor:
        """Return int32 parents (batch, N)."""
        return stored.to(torch.int32)


TARGET = MinimumSpanningTree
