"""How good a student's answers are: accuracy, cross-entropy, and which classes it confuses."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geocache.errors import ConfigError, NumericError, StorageError

__all__ = ["Evaluation", "measure", "write_confusion"]

_TOP = 5


@dataclass(frozen=True)
class Evaluation:
    """Top-1 accuracy in [0, 1] and mean cross-entropy over the labelled rows.

    With details: `top5_accuracy`, where there are more than 5 classes; `class_accuracy`, None for a
    class without a row; `confusion[i][j]`, the rows of class i that the student calls j.
    """

    accuracy: float
    loss: float
    n_rows: int
    top5_accuracy: float | None = None
    class_accuracy: tuple[float | None, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()


@torch.no_grad()
def measure(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, details: bool = False
) -> Evaluation:
    """Evaluate `model` on (normalised images, labels) batches, in evaluation mode.

    Rows labelled -1 do not count. The model's mode is put back. Raises ConfigError when no row has
    a label, NumericError when the model answers NaN or infinity.
    """
    mode = model.training
    model.eval()
    sums: Tensor | None = None
    table: Tensor | None = None
    for images, labels in batches:
        logits = model(images).float()
        labelled = labels >= 0
        loss = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
        correct = ((logits.argmax(dim=1) == labels) & labelled).sum()
        part = torch.stack([correct.double(), loss.double(), labelled.sum().double()])
        sums = part if sums is None else sums + part
        if details:
            counts = _confusion(logits[labelled], labels[labelled])
            table = counts if table is None else table + counts
    model.train(mode)
    n_correct, total, n_rows = [0.0, 0.0, 0.0] if sums is None else sums.tolist()
    if n_rows == 0:
        raise ConfigError("evaluation must have labelled images, got none. Name a labelled split.")
    if not math.isfinite(total):
        raise NumericError(
            "logits must be finite, got NaN or infinity in evaluation. Check the weights and the "
            "normalisation."
        )
    whole = Evaluation(accuracy=n_correct / n_rows, loss=total / n_rows, n_rows=int(n_rows))
    return whole if table is None else _with_details(whole, table)


def _confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """Count rows by (label, prediction); a last column holds those with the label in the top 5."""
    n = logits.shape[1]
    table = torch.bincount(labels * n + logits.argmax(dim=1), minlength=n * n).view(n, n)
    top = logits.topk(min(_TOP, n), dim=1).indices
    in_top = labels[(top == labels[:, None]).any(dim=1)]
    return torch.cat([table, torch.bincount(in_top, minlength=n)[:, None]], dim=1)


def _with_details(whole: Evaluation, table: Tensor) -> Evaluation:
    counts, in_top = table[:, :-1], table[:, -1]
    n_classes = len(counts)
    accuracies = tuple(
        right / n if n else None
        for right, n in zip(counts.diagonal().tolist(), counts.sum(dim=1).tolist(), strict=True)
    )
    return Evaluation(
        accuracy=whole.accuracy,
        loss=whole.loss,
        n_rows=whole.n_rows,
        top5_accuracy=int(in_top.sum()) / whole.n_rows if n_classes > _TOP else None,
        class_accuracy=accuracies,
        confusion=tuple(map(tuple, counts.tolist())),
    )


def write_confusion(path: Path, found: Evaluation, classes: Sequence[str]) -> None:
    """Write the confusion matrix as CSV: a line a class, a column a prediction, names in front.

    Raises StorageError when the disk refuses.
    """
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file, lineterminator="\n")
            lines.writerow(["class", *classes])
            for name, counts in zip(classes, found.confusion, strict=True):
                lines.writerow([name, *counts])
    except OSError as error:
        raise StorageError(
            f"confusion matrix must be written to '{path}', but the disk refused: "
            f"{error.strerror}. Free space, or name another file."
        ) from None
