"""From a cache to batches: which rows when, whole in memory or streamed, decoded by batch.

The loader holds what it reads in one of two ways: resident where it fits, an exact shuffle of all
rows; streamed where not, blocks in random order shuffled within a window of bounded size. Either
way a batch is a function of (seed, epoch, its number), kept as stored until it is due, then
normalised and decoded at once on its device. No step looks at single samples in Python.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from geocache.data.views import ViewSet, views_of
from geocache.student_train.batch import Batch, Partners, Stored
from geocache.student_train.loadable import (
    check_built,
    check_cells,
    check_options,
    check_order,
    check_views,
    chosen_rows,
    find_target,
)
from geocache.student_train.memory import loader_budget
from geocache.student_train.normalise import Normalisation, channels_first
from geocache.student_train.placement import place
from geocache.student_train.resident import Resident
from geocache.student_train.shared import Peers
from geocache.student_train.source import Decoder, Source
from geocache.student_train.streamed import Streamed
from geocache.student_train.windows import Share

if TYPE_CHECKING:
    from geocache.student_train.torch_data import BatchStream, RowDataset

__all__ = ["Batch", "Loader"]

_log = logging.getLogger(__name__)


class Loader:
    """Batches of a cache: `for batch in loader.epoch(e)`, in an order of (seed, epoch) alone.

    Arguments: `cache`, what `geocache.open` returns; `targets`, names such as `logits` or
    `layer2/mst`; `batch_size` (of all ranks together) and `seed`; `rows`, those to use (by default
    all, and then all must be built; invalid ones are left out either way); `device`, where the
    batches appear; `views`, by default those of the cache, of which epoch e takes view
    `(e + view_offset) mod views.count`; with `fresh_views` every epoch takes a new one, for which
    no teacher has an answer.

    `mode`: `resident` keeps everything in RAM or in the GPU's memory, an exact shuffle;
    `stream` reads it again every epoch, shuffled in windows of `buffer_rows` (by default 8 row
    groups of the images), of which one is used and one is read ahead by `workers` threads; `auto`
    is resident where the stored bytes fit `memory` (bytes, or a text such as `4GB`, of this
    machine, shared by its `local_world_size` ranks; by default half of what is free). `describe`
    says what was chosen and why. The order is the same for any `workers`, and for any `world_size`
    ranks, of which `rank` takes its slice of every batch; it differs between the two modes. Ranks
    that make their loaders together as `peers` choose the same mode and hold resident rows once.

    Raises MissingTargetError for a target that the cache lacks or does not hold for all those
    rows and views, ConfigError for a bad batch size or option, for no rows at all, for views of
    another policy than the cache's, for targets of fresh views, for a buffer beyond `memory`, and
    for rows whose partners in views that mix two images are not among them.
    Memory: resident, the stored bytes of the images, and of the targets in every view, up to the
    last row used; streaming, those of two windows.
    """

    def __init__(
        self,
        cache: Source,
        targets: Sequence[str] = (),
        batch_size: int = 128,
        seed: int = 0,
        rows: Sequence[int] | NDArray[np.int64] | None = None,
        device: str | torch.device = "cpu",
        views: ViewSet | None = None,
        view_offset: int = 0,
        fresh_views: bool = False,
        *,
        mode: str = "auto",
        memory: int | str | None = None,
        buffer_rows: int | None = None,
        workers: int = 4,
        rank: int = 0,
        world_size: int = 1,
        local_world_size: int | None = None,
        peers: Peers | None = None,
    ) -> None:
        # A user's own transform is imported where the caller names it, never because a cache does.
        self.views = views or cache.views
        check_views(self.views, cache, targets, fresh=fresh_views)
        check_options(batch_size, mode, buffer_rows, workers, rank, world_size)
        self._view_offset, self._fresh = view_offset, fresh_views
        self.rows: NDArray[np.int64] = chosen_rows(cache, rows, self.views)
        self.batch_size, self.seed = batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.device = torch.device(device)
        self.targets = tuple(dict.fromkeys(targets))
        # Without rows all must be built: half a cache would train worse and say nothing.
        n_read = cache.n_rows if rows is None else int(self.rows[-1]) + 1
        names = {name: find_target(cache, name) for name in self.targets}
        for name in ("images", *names.values()):
            check_built(cache, name, n_read, self.views.count)
        self._decoders: dict[str, Decoder] = {n: cache.decoder(h) for n, h in names.items()}
        self._normalise = Normalisation(cache.mean, cache.std, self.device)
        n_local = local_world_size or int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
        budget = loader_budget(memory, self.device, n_local, peers)
        placement = place(
            cache, names, n_read, self.views, mode=mode, buffer_rows=buffer_rows, budget=budget
        )
        self.mode, self._why = placement.mode, placement.why
        if placement.mode == "resident":
            self._held: Resident | Streamed = Resident(
                cache, names, n_read,
                n_views=self.views.count, fresh=fresh_views, device=self.device, peers=budget.peers,
                mixing=self.views.mixing,
            )  # fmt: skip
        else:
            self._held = Streamed(
                cache, names, block_rows=placement.block_rows, window_rows=placement.window_rows,
                n_threads=workers, device=self.device, mixing=self.views.mixing,
            )  # fmt: skip
        self._window_rows = placement.window_rows
        self._epoch, self._batch = 0, 0
        self._resume: tuple[int, int] | None = None
        _log.info("loader is %s", self.describe())

    def view_of(self, epoch: int) -> int:
        """Return the view that an epoch (counted from 0) takes."""
        number = epoch + self._view_offset
        return number if self._fresh else number % self.views.count

    def describe(self) -> str:
        """Return one line that says whether the rows are resident or streamed, and why."""
        return self._why

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return (channels, height, width) of a batch's images."""
        height, width, channels = self.views.policy.output_shape(self._held.image_shape)
        return channels, height, width

    def __len__(self) -> int:
        """Return the number of batches of an epoch, the same on every rank."""
        return len(self.batch_sizes())

    def batch_sizes(self, *, drop_single: bool = False) -> list[int]:
        """Return the rows of each batch that `epoch` yields, over all ranks."""
        return self._share().sizes(len(self.rows), per_rank=2 if drop_single else 1)

    def restrict(self, rows: NDArray[np.int64], *, targets: bool = True) -> Loader:
        """Return a loader of some of these rows, or without targets, that shares this memory."""
        part = copy.copy(self)
        part.rows = np.intersect1d(self.rows, rows)
        check_cells(part.rows, self.rows, self.views)
        part._epoch, part._batch, part._resume = 0, 0, None
        if not targets:
            part.targets = ()
        return part

    def alone(self) -> Loader:
        """Return a loader that takes all of every batch itself and shares this memory."""
        part = self.restrict(self.rows)
        part.rank, part.world_size = 0, 1
        return part

    def batch(self, rows: NDArray[np.int64], view: int | None = 0) -> Batch:
        """Gather and decode these rows in a view; None stands for whole images, without targets.

        A streaming loader reads the row groups that hold them for this one call.
        """
        return self._decoded(self._held.gather(rows, view, **self._wanted(view)), view)

    def epoch(
        self, epoch: int, *, drop_single: bool = False, start_batch: int | None = None
    ) -> Generator[Batch, None, None]:
        """Yield the batches of one epoch, each usable row once; the last batch may be short.

        With `drop_single` a last batch of one row a rank is left out (batch norm cannot train on
        it). `start_batch` leaves out the batches before it without reading them, by default those
        that a state loaded for this epoch has seen. With several ranks a last batch that is too
        short to give each of them a row is left out.
        """
        if start_batch is None:
            resumed, seen = self._resume or (epoch, 0)
            start_batch = seen if resumed == epoch else 0
        self._resume = None
        self._epoch, self._batch = epoch, start_batch
        n_batches = len(self.batch_sizes(drop_single=drop_single))
        for batch in self.numbered(self._share(), range(start_batch, n_batches), epoch):
            self._batch += 1
            yield batch
        self._epoch, self._batch = epoch + 1, 0

    def in_order(self, view: int | None = 0) -> Iterator[Batch]:
        """Yield every row once in the cache's order; None gives whole images, for evaluation.

        Each of several ranks gets its part of every batch, and none of a batch that is too short.
        """
        share = self._share()
        n_batches = -(-len(self.rows) // self.batch_size)
        last = share.part(n_batches - 1, len(self.rows))
        numbers = range(n_batches - (last.start == last.stop))
        yield from self._batches(share, numbers, None, view)

    def dataset(self, epoch: int = 0) -> RowDataset:
        """Return the rows as a map-style PyTorch data set, in the view of an epoch.

        For a resident loader: streaming, each access reads the row groups that hold the rows.
        """
        from geocache.student_train.torch_data import RowDataset

        return RowDataset(self, epoch)

    def iterable(self, epoch: int = 0, *, single: bool = False) -> BatchStream:
        """Return an epoch's batches as a PyTorch `IterableDataset`, or with `single` its rows."""
        from geocache.student_train.torch_data import BatchStream

        return BatchStream(self, epoch, single=single)

    def state_dict(self) -> dict[str, Any]:
        """Return where the last epoch begun stands, to go on from with `load_state_dict`.

        The batch that is being worked on counts as seen. Any number of ranks or workers may go on.
        """
        return {"epoch": self._epoch, "batch": self._batch, **self._order()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state: the next `epoch(state["epoch"])` begins at its next batch.

        Raises ConfigError where this loader's order is another: other rows, seed, batch size, mode
        or buffer.
        """
        check_order(self._order(), state)
        self._resume = (int(state["epoch"]), int(state["batch"]))
        self._epoch, self._batch = self._resume

    def _order(self) -> dict[str, Any]:
        """Return what the order of an epoch depends on, rows by their hash."""
        rows = hashlib.sha256(np.ascontiguousarray(self.rows).tobytes()).hexdigest()
        window = self._window_rows if self.mode == "stream" else None
        return {
            "seed": self.seed, "batch_size": self.batch_size, "mode": self.mode,
            "buffer_rows": window, "rows": rows,
        }  # fmt: skip

    def _share(self) -> Share:
        return Share(self.batch_size, self.rank, self.world_size)

    def _wanted(self, view: int | None) -> dict[str, Any]:
        """Return what a batch of a view is made from."""
        names = () if view is None else self.targets
        return {"names": names, "parameters": not self.views.is_plain}

    def numbered(self, share: Share, numbers: range, epoch: int) -> Iterator[Batch]:
        """Yield our part of the batches `numbers` of an epoch."""
        return self._batches(share, numbers, epoch, self.view_of(epoch))

    def _batches(
        self, share: Share, numbers: range, epoch: int | None, view: int | None
    ) -> Iterator[Batch]:
        held = self._held.batches(
            self.rows, share, numbers, seed=self.seed, epoch=epoch, view=view, **self._wanted(view)
        )
        with closing(held):
            for stored in held:
                batch = self._decoded(stored, view)
                del stored  # it holds its whole window, which must be gone when the next is begun
                yield batch

    def _decoded(self, stored: Stored, view: int | None) -> Batch:
        """Make views, normalise and decode; a view of None takes whole images."""
        pixels, policy, other = stored.images, self.views.policy, stored.partners
        if view is None:
            pixels = policy.whole(channels_first(pixels))
        elif stored.parameters is not None:
            partners = None if other is None else channels_first(other.images)
            pixels = views_of(policy, channels_first(pixels), stored.parameters, partners)
        return Batch(
            images=self._normalise(pixels),
            labels=stored.labels,
            targets={n: self._decoders[n].decode(v) for n, v in stored.targets.items()},
            rows=stored.rows,
            partners=self._partners(stored),
        )

    def _partners(self, stored: Stored) -> Partners | None:
        mixing, other = self.views.mixing, stored.partners
        if mixing is None or other is None or stored.parameters is None:
            return None
        return Partners(other.rows, other.labels, mixing.weights(stored.parameters))
