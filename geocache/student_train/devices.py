"""Several devices: one process each, started and connected by Lightning Fabric (its `ddp`).

Every rank takes its part of each batch, in the order that one process would see, and gradients are
summed in one flat buffer after the backward pass. With losses that are means over rows the sum is
the gradient of the whole batch, so a training on n devices is that of one, up to the rounding of
the sum and to batch norm, whose statistics are those of a rank's own rows. Other ranks than 0 write
nothing. Fabric starts them by running the program's command line once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from geocache.student_train.train_table import TrainTable

__all__ = ["ONE", "Ranks", "open_ranks"]


class Ranks:
    """The processes of a training: `rank` of `size`; one alone sums and waits for nothing."""

    def __init__(self, fabric: Any = None) -> None:
        self._fabric = fabric
        self.rank: int = 0 if fabric is None else fabric.global_rank
        self.size: int = 1 if fabric is None else fabric.world_size

    @property
    def writes(self) -> bool:
        """Return whether this process writes the run."""
        return self.rank == 0

    def tell(self, value: Any) -> Any:
        """Return the first rank's value on each."""
        return value if self._fabric is None else self._fabric.broadcast(value)

    def least(self, value: int) -> int:
        """Return the smallest of all ranks' values on each."""
        if self._fabric is None:
            return value
        values = torch.tensor(value, device=self._fabric.device)
        return int(self._fabric.all_reduce(values, reduce_op="min"))

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all ranks."""
        if self._fabric is None:
            return values
        total: Tensor = self._fabric.all_reduce(values.clone(), reduce_op="sum")
        return total

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over all ranks."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self._fabric is None or not gradients:
            return
        flat = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self._fabric is not None:
            self._fabric.barrier()


ONE = Ranks()


@contextmanager
def open_ranks(table: TrainTable, device: torch.device) -> Iterator[tuple[Ranks, torch.device]]:
    """Start `table.devices` processes; yield this one's place among them and its device."""
    if table.devices == 1:
        yield ONE, device
        return
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator=device.type, devices=table.devices, strategy="ddp")
    fabric.launch()
    try:
        yield Ranks(fabric), fabric.device
        fabric.barrier()
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
