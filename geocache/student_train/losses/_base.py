"""What a loss is: a frozen dataclass whose fields are its whole configuration.

A loss compares the student with a small statistic of the teacher, its sufficient target, and says
by name which statistics those are. The recipe adds them up over all terms, `geocache build`
stores exactly those, and the loader reads exactly those.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

__all__ = ["Loss", "OwnOrClass", "full_precision", "safe_norm", "safe_root"]

OwnOrClass = Literal["class", "binary", "values"] | None


class Loss(ABC):
    """Base of all losses; subclasses are frozen dataclasses, one a module.

    `needs_layer` says whether the loss compares a pair of layers (`student` is then a feature map,
    otherwise the logits). `row_by_row` says whether its value is the mean of the values of single
    rows; a loss that compares the rows of a batch with each other changes with the batch.
    `reads_labels` says which labels it reads: the data set's classes, own labels from 0 to 1
    ("binary") or of any size ("values"), or none. A loss that reads classes goes with views that
    mix two images only where it `reads_both_labels`: then `target` also holds `partner_labels` and
    `own_weights` (batch,). Own labels are mixed before a loss sees them.
    """

    needs_layer: ClassVar[bool] = False
    row_by_row: ClassVar[bool] = True
    reads_labels: ClassVar[OwnOrClass] = None
    reads_both_labels: ClassVar[bool] = False

    def targets(self, layer: str | None = None) -> tuple[str, ...]:
        """Name the cached targets that the loss compares with.

        `layer` is the teacher's layer: the names are then the cache's own, `layer2/mst`; without
        it they are the bare array names, which are the keys of `target` in the call. The labels
        are part of every batch and are not listed.
        """
        return ()

    def adapter(self, *, student: Tensor, target: Mapping[str, Tensor]) -> nn.Module | None:
        """Return a module to be trained with the student, through which its map reaches the loss.

        `student` and `target` are those of any batch, for their shapes. Its weights come from
        torch's global generator. By default there is none.
        """
        return None

    @abstractmethod
    def __call__(self, *, student: Tensor, target: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of a batch: a scalar, the mean over its rows."""


def full_precision(values: Tensor) -> Tensor:
    """Return the values in float32, or wider where they are: a softmax in bfloat16 errs by 4 %."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def safe_norm(x: Tensor) -> Tensor:
    """Return the Euclidean norm over all but the first axis, with gradient 0 where it is 0."""
    return safe_root(x.flatten(1).square().sum(1))


def safe_root(square: Tensor) -> Tensor:
    """Return the square root, with gradient 0 where it is 0."""
    zero = square == 0
    return torch.where(zero, torch.zeros_like(square), square.where(~zero, 1.0).sqrt())
