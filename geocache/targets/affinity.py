"""The affinity contrast J of each local feature (GeoReg eq 6), for one radius or one k.

J lies in [0, 1]; 16-bit fixed point errs by at most 1 / 131070 = 7.6e-6 everywhere, float16 by up
to 2.4e-4 near 1, in the same two bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from geocache.geometry import (
    affinity_contrast,
    affinity_contrast_from_distances,
    knn_mask,
    tree_mask,
)
from geocache.targets._base import LocalFeatures, RowStorage
from geocache.targets._neighbourhood import NeighbourhoodTarget
from geocache.targets._stored import StoredRows

__all__ = ["TARGET", "Affinity"]

_STEPS = 65_535
_OFFSET = 32_768


@dataclass(frozen=True)
class Affinity(NeighbourhoodTarget):
    """Store J over the nodes within `radius` hops on the tree, or over the `k` nearest."""

    kind: ClassVar[str] = "affinity"

    def storage(self, shape: tuple[int, ...]) -> RowStorage:
        """Store (node,) int16, linear in J, in the convention that xarray decodes by itself."""
        n = self.nodes(shape)
        scale = {"scale_factor": 1 / _STEPS, "add_offset": _OFFSET / _STEPS}
        return RowStorage("int16", (n,), ("node",), {"grid": list(shape[1:]), **scale})

    def compute(self, features: LocalFeatures) -> np.ndarray[Any, Any]:
        """Return J in fixed point."""
        x = features.features
        if self.radius is not None:
            values = features.affinity(self.radius)
        else:
            assert self.k is not None
            lists = features.neighbours(self.k)
            values = affinity_contrast(x, neighbours=lists.to(x.device))
        return _fixed_point(values)

    def sources(self) -> tuple[tuple[str, ...], ...]:
        """Follow from the map, with the stored tree or lists where there are, or from distances."""
        around = self.neighbourhood_name
        return (
            (around, "activation.float32"),
            ("activation.float32",),
            (around, "activation"),
            (around, "distance"),
            ("activation",),
        )

    def derive(self, stored: StoredRows, sources: tuple[str, ...]) -> np.ndarray[Any, Any]:
        """Compute J from a stored map or stored distances, over the stored neighbourhood."""
        if sources[-1] == "distance":
            neighbourhood = stored[self.neighbourhood_name]
            if self.radius is not None:
                mask = tree_mask(neighbourhood, self.radius)
            else:
                mask = knn_mask(neighbourhood)
            return _fixed_point(affinity_contrast_from_distances(stored["distance"], mask))
        features = stored.features(sources[-1])
        if self.k is not None and sources[0] == self.neighbourhood_name:
            lists = stored[self.neighbourhood_name]
            return _fixed_point(affinity_contrast(features.features, neighbours=lists))
        return self.compute(features)

    def decode(self, stored: Tensor) -> Tensor:
        """Return float32 J (batch, N)."""
        return stored.float().add_(_OFFSET).mul_(1 / _STEPS)


def _fixed_point(values: Tensor) -> np.ndarray[Any, Any]:
    steps = torch.round(values.double() * _STEPS) - _OFFSET
    return steps.to(torch.int16).cpu().numpy()


TARGET = Affinity
