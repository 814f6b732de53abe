"""Everything in memory: read once in the stored order, gather any rows of it by index.

Images and targets stay as they are stored, several times smaller than decoded, in RAM or on the
GPU. A batch is one gathering of rows an array. Processes of one machine may share the copy in RAM.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from geocache.data.views import MixPolicy
from geocache.student_train.batch import Stored
from geocache.student_train.order import Rows, epoch_order
from geocache.student_train.shared import Peers, shared_array
from geocache.student_train.source import Source
from geocache.student_train.windows import Share

__all__ = ["Resident"]

# Row groups read at once into shared memory: enough to fetch the next ones meanwhile.
_BLOCK_GROUPS = 8
_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


class Resident:
    """The first `n_read` rows of a source on a device; `held` maps targets to what serves them.

    peers: processes that hold one copy of images and targets in RAM together with this one.
    mixing: the views' policy where rows are mixed with partners, which then come along.
    """

    def __init__(
        self,
        source: Source,
        held: Mapping[str, str],
        n_read: int,
        *,
        n_views: int,
        fresh: bool,
        device: torch.device,
        peers: Peers | None = None,
        mixing: MixPolicy | None = None,
    ) -> None:
        self._source, self._n_read, self._fresh, self._device = source, n_read, fresh, device
        self._peers, self._mixing = peers, mixing
        # NCHW once, here: the step then gathers and normalises contiguous memory.
        self._images = self._all("images", turned=True)
        self._stored = {
            name: [self._all(of, view) for view in range(n_views)] for name, of in held.items()
        }
        self._labels = self._kept(source.labels[:n_read].astype(np.int64))
        self._parameters: dict[int, Tensor] = {}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return (height, width, channels) of the stored images."""
        channels, height, width = self._images.shape[1:]
        return height, width, channels

    def gather(
        self, rows: Rows, view: int | None, names: Sequence[str], *, parameters: bool
    ) -> Stored:
        """Return these rows in a view; None stands for images without view and targets."""
        index: Int64[Tensor, " batch"] = torch.from_numpy(rows).to(self._device, non_blocking=True)
        drawn, partners = None, None
        if view is not None and parameters:
            drawn = _gather(self._view(view), index)
            if self._mixing is not None:
                partners = self._plain(self._mixing.partners(index, drawn))
        targets = {name: _gather(self._stored[name][view or 0], index) for name in names}
        own = self._plain(index)
        return dataclasses.replace(own, parameters=drawn, targets=targets, partners=partners)

    def _plain(self, index: Int64[Tensor, " batch"]) -> Stored:
        return Stored(_gather(self._images, index), _gather(self._labels, index), index)

    def batches(
        self,
        rows: Rows,
        share: Share,
        numbers: range,
        *,
        seed: int,
        epoch: int | None,
        view: int | None,
        names: Sequence[str],
        parameters: bool,
    ) -> Generator[Stored, None, None]:
        """Yield our part of the batches `numbers` of an epoch; epoch None is the cache's order."""
        order = rows if epoch is None else epoch_order(rows, seed=seed, epoch=epoch)
        for number in numbers:
            part = order[share.part(number, len(order))]
            yield self.gather(part, view, names, parameters=parameters)

    def _all(self, name: str, view: int = 0, *, turned: bool = False) -> Tensor:
        """Return all rows of an array, with `turned` the images' channels in front."""

        def rows(start: int, stop: int) -> NDArray[Any]:
            read = self._source.read(name, start, stop, view)
            return read.transpose(0, 3, 1, 2) if turned else read

        if self._peers is None:
            return self._kept(rows(0, self._n_read))
        step = _BLOCK_GROUPS * self._source.group_rows(name)
        edges = [*range(0, self._n_read, step), self._n_read]
        blocks = (rows(*pair) for pair in pairwise(edges))
        return torch.from_numpy(shared_array(blocks, self._n_read, self._peers))

    def _view(self, view: int) -> Tensor:
        """Return the parameters of all rows in a view; of fresh views only the last is kept."""
        if view not in self._parameters:
            if self._fresh:
                self._parameters.clear()
            self._parameters[view] = self._kept(self._source.view_parameters(view, self._n_read))
        return self._parameters[view]

    def _kept(self, stored: NDArray[Any]) -> Tensor:
        return torch.from_numpy(_writable(stored)).to(self._device)


def _writable(stored: NDArray[Any]) -> NDArray[Any]:
    """Copy only what torch cannot share: memory-mapped and strided arrays."""
    return np.require(stored, requirements=["C", "W"])


def _gather(stored: Tensor, index: Tensor) -> Tensor:
    if stored.device.type == "cpu":
        # Copies of rows, which torch would wake its threads for: on busy cores they wait for each
        # other ten times longer than this takes.
        return torch.from_numpy(stored.numpy().take(index.numpy(), axis=0))
    # torch moves unsigned integers wider than a byte, but gathers them on few devices.
    signed = _SIGNED.get(stored.dtype)
    if signed is None:
        return stored.index_select(0, index)
    return stored.view(signed).index_select(0, index).view(stored.dtype)
