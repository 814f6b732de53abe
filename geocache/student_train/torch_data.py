"""The loader as PyTorch data sets, for a training loop that brings its own `DataLoader`.

Items are dictionaries of tensors, which collate, pin and move like any others; `Batch.from_dict`
makes a batch of one again.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from geocache.student_train.windows import Share

if TYPE_CHECKING:
    from geocache.student_train.stream import Loader

__all__ = ["BatchStream", "RowDataset"]

Item = dict[str, Tensor]


class RowDataset(Dataset[Item]):
    """One row an item, in the cache's order: `images`, `labels`, `rows` and each target.

    Who shuffles is the sampler. An item is the same each time it is asked for, in the view of the
    epoch that `set_epoch` names.
    """

    def __init__(self, loader: Loader, epoch: int = 0) -> None:
        """Give the rows of a loader in the view of an epoch."""
        self._loader = loader
        self.set_epoch(epoch)

    def set_epoch(self, epoch: int) -> None:
        """Take the view of this epoch; workers see it when they are started."""
        self._view = self._loader.view_of(epoch)

    def __len__(self) -> int:
        """Return the number of usable rows."""
        return len(self._loader.rows)

    def __getitem__(self, index: int) -> Item:
        """Return one row. Raises IndexError beyond the last."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Return several rows, gathered and decoded at once."""
        rows = self._loader.rows[np.array([operator.index(i) for i in indices], np.int64)]
        return self._loader.batch(rows, self._view).as_rows()


class BatchStream(IterableDataset[Item]):
    """The batches of an epoch in the loader's order, or with `single` their rows one by one.

    For `DataLoader(stream, batch_size=None)`, any number of workers, and for the loader's rank.
    With `single` and several workers the `DataLoader`'s batch size must be this rank's part of the
    loader's for the batches to be the same.
    """

    def __init__(self, loader: Loader, epoch: int = 0, *, single: bool = False) -> None:
        """Give the batches of a loader, or with `single` rows."""
        self._loader, self._epoch, self._single = loader, epoch, single

    def set_epoch(self, epoch: int) -> None:
        """Take the order and the view of this epoch; workers see it when they are started."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Return the number of this rank's batches, or rows."""
        n_batches, share = len(self._loader), self._share(0, 1)
        if not self._single:
            return n_batches
        parts = (share.part(number, len(self._loader.rows)) for number in range(n_batches))
        return sum(part.stop - part.start for part in parts)

    def _share(self, worker: int, n_workers: int) -> Share:
        loader = self._loader
        return Share(loader.batch_size, loader.rank, loader.world_size, worker, n_workers)

    def __iter__(self) -> Iterator[Item]:
        """Yield what falls to this worker: worker w of W takes the batches w, w + W, ..."""
        info = get_worker_info()
        share = self._share(0, 1) if info is None else self._share(info.id, info.num_workers)
        numbers = share.numbers(len(self._loader))
        for batch in self._loader.numbered(share, numbers, self._epoch):
            if self._single:
                yield from batch.as_rows()
            else:
                yield batch.as_dict()
