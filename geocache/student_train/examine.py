"""What is measured of a student between its epochs and at its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geocache.student_train.checkpoint import load_checkpoint
from geocache.student_train.ema import weights_of
from geocache.student_train.evaluate import EvaluationSet
from geocache.student_train.measure import measure, write_confusion
from geocache.student_train.own_labels import own_figures
from geocache.student_train.setup import Setup
from geocache.student_train.terms import mean_total

__all__ = ["Examiner"]

Pairs = Iterable[tuple[Tensor, Tensor]]


class Examiner:
    """Measures the student of `setup` on the validation rows and the evaluation split."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._test = _test_set(setup)

    def _splits(self) -> dict[str, Pairs]:
        """Return the images and labels of each split that has labels."""
        splits: dict[str, Pairs] = {}
        held, own = self._setup.validation, self._setup.own
        if held is not None and (
            own is not None or bool((self._setup.source.labels[held.rows] >= 0).any())
        ):
            splits["validation"] = _whole_images(held.in_order(None))
        if self._test is not None:
            pairs = self._test.batches()
            if own is not None and own.evaluation is not None:
                values = own.evaluation
                pairs = ((images, values[numbers]) for images, numbers in pairs)
            splits["test"] = pairs
        return splits

    def figures(
        self, weights: Mapping[str, float], averaged: Mapping[str, Tensor] | None
    ) -> dict[str, float]:
        """Measure the averaged weights where there are any, and the others then beside them.

        weights: of the terms, by label.
        """
        if averaged is None:
            return self._figures(weights)
        raw = {f"raw_{name}": value for name, value in self._figures(weights).items()}
        with weights_of(self._setup.student, averaged):
            return self._figures(weights) | raw

    def _figures(self, weights: Mapping[str, float]) -> dict[str, float]:
        setup = self._setup
        found: dict[str, float] = {}
        for split, pairs in self._splits().items():
            if setup.own is None:
                whole = measure(setup.student, pairs)
                measured: Mapping[str, float] = {"accuracy": whole.accuracy, "loss": whole.loss}
            else:
                measured = own_figures(setup.own.kind, *_answers(setup, pairs))
            found |= {f"{split}_{name}": value for name, value in measured.items()}
        if setup.validation is not None and setup.validates_loss:
            found["validation_total"] = mean_total(
                setup.terms, setup.student, setup.validation, weights
            )
        return found

    def details(self, out: Path) -> dict[str, Any]:
        """Measure the best epoch class by class, on the split that it was not chosen by if any."""
        splits, classes = self._splits(), self._setup.classes
        if self._setup.own is not None or not splits:
            return {}
        pairs = splits.get("test", splits.get("validation", ()))
        with weights_of(self._setup.student, load_checkpoint(out / "best.pt")["model"]):
            found = measure(self._setup.student, pairs, details=True)
        write_confusion(out / "confusion.csv", found, classes)
        return {
            "top5_accuracy": found.top5_accuracy,
            "class_accuracy": dict(zip(classes, found.class_accuracy, strict=True)),
        }


def _test_set(setup: Setup) -> EvaluationSet | None:
    source, own = setup.source, setup.own
    if source.eval_images is None or source.eval_labels is None:
        return None
    labels = source.eval_labels
    if own is not None:
        if own.evaluation is None:
            return None
        labels = np.arange(len(own.evaluation))
    elif not bool((labels >= 0).any()):
        return None
    return EvaluationSet(
        source.eval_images, labels,
        mean=source.mean, std=source.std, device=setup.device, policy=setup.loader.views.policy,
    )  # fmt: skip


def _whole_images(batches: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    return ((batch.images, batch.labels) for batch in batches)


@torch.no_grad()
def _answers(setup: Setup, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Return the student's outputs and the labels of all images."""
    mode = setup.student.training
    setup.student.eval()
    found = [(setup.student(images).float(), labels) for images, labels in pairs]
    setup.student.train(mode)
    outputs, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    return outputs, labels
