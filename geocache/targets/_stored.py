"""Targets from targets: rows that a cache holds, decoded, for others that follow from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from geocache.targets._base import LocalFeatures

__all__ = ["StoredRows", "serving_name"]


def serving_name(name: str, known: Iterable[str]) -> str | None:
    """Return the name among `known` that serves `name`: itself, or a longer k-NN list, or None.

    Lists are sorted, so the k nearest are the front of any list that is long enough.
    """
    names = tuple(known)
    if name in names:
        return name
    front, kind, k = name.rpartition("knn.k")
    if not kind or not k.isdigit():
        return None
    lists = (other.removeprefix(front + kind) for other in names if other.startswith(front + kind))
    longer = [int(size) for size in lists if size.isdigit() and int(size) >= int(k)]
    return f"{front}{kind}{min(longer)}" if longer else None


class StoredRows:
    """A batch of rows of one layer (or of the output), by the bare names of the targets."""

    def __init__(self, held: Mapping[str, Tensor], where: str, radii: tuple[int, ...] = ()) -> None:
        """Hold decoded batches; `where` is for messages, `radii` those that will be asked for."""
        self._held = dict(held)
        self._where = where
        self._radii = radii
        self._features: dict[str, LocalFeatures] = {}

    def __getitem__(self, name: str) -> Tensor:
        """Return the decoded batch of a target, of k-NN lists the first k."""
        found = serving_name(name, self._held)
        if found is None:
            raise KeyError(name)
        decoded = self._held[found]
        return decoded if found == name else decoded[..., : int(name.rpartition("knn.k")[2])]

    def features(self, activation: str) -> LocalFeatures:
        """Return a stored activation as local features, with the stored tree where there is one."""
        if activation not in self._features:
            x = self[activation]
            # Laid out as teachers lay theirs: some sums take another order otherwise.
            x = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
            self._features[activation] = LocalFeatures(
                x, self._where, self._radii, tree=self._held.get("mst")
            )
        return self._features[activation]
