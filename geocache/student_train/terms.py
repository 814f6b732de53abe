"""The terms of the total loss: which loss, on which layers, with what weight.

`total = sum_t weight_t L_t` (GeoReg eq 11). A weight is a number, or a share: the term then starts
at that multiple of the cross-entropy's size, measured on the first batches and frozen. Published
weights only fit the published teacher; shares travel.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from geocache.errors import GeocacheError, NumericError, ShapeError
from geocache.models import Taps, list_layers
from geocache.student_train.forward import Forward
from geocache.student_train.losses import Loss, full_precision
from geocache.student_train.losses.cross_entropy import CrossEntropy
from geocache.student_train.recipe import Recipe
from geocache.student_train.schedules import CONSTANT, WeightSchedule
from geocache.student_train.stream import Batch, Loader
from geocache.student_train.train_table import TrainTable

__all__ = [
    "Calibration",
    "Term",
    "attach_adapters",
    "build_terms",
    "calibrate",
    "check_pairs",
    "mean_total",
    "student_layers",
]


@dataclass(frozen=True)
class Term:
    """One loss term: what to compute, on which layers, and how heavy (a weight or a share)."""

    label: str
    loss: Loss
    student_layer: str | None
    compares_with: str | None
    """Where a batch holds the target: `LAYER`, with several teachers `NAME/LAYER` or `NAME`."""
    weight: float | None
    share: float | None
    schedule: WeightSchedule = CONSTANT
    adapter: nn.Module | None = None

    def inputs(
        self, logits: Tensor, features: Mapping[str, Tensor], batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what the loss compares: the student's tensor and the target."""
        student = logits if self.student_layer is None else features[self.student_layer]
        return student, batch.at(self.compares_with)

    def value(self, logits: Tensor, features: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Return the term's loss of a batch, without its weight."""
        student, target = self.inputs(logits, features, batch)
        student = full_precision(student)
        if self.adapter is not None:
            student = self.adapter(student)
        return self.loss(student=student, target=target)


@dataclass(frozen=True)
class Calibration:
    """Sizes of the terms at the initial weights, and the weights that follow, by label."""

    cross_entropy: float
    sizes: dict[str, float]
    weights: dict[str, float]


def build_terms(recipe: Recipe) -> tuple[Term, ...]:
    """Return the recipe's loss terms in their order."""
    teachers = tuple(teacher.name for teacher in recipe.teacher)
    return tuple(
        Term(
            label=label,
            loss=table.build(),
            student_layer=table.student,
            compares_with=table.compares_with(teachers),
            weight=1.0 if table.weight is None and table.share is None else table.weight,
            share=table.share,
            schedule=table.schedule.build(),
        )
        for label, table in zip(recipe.term_labels(), recipe.loss, strict=True)
    )


def student_layers(terms: Sequence[Term]) -> tuple[str, ...]:
    """Return the student layers to tap, each once."""
    return tuple(dict.fromkeys(term.student_layer for term in terms if term.student_layer))


@torch.no_grad()
def attach_adapters(
    terms: Sequence[Term], model: nn.Module, loader: Loader
) -> tuple[tuple[Term, ...], nn.ModuleDict]:
    """Build the modules that terms train beside the student; return the terms that hold them.

    The modules are keyed by the term's number. Raises ShapeError when a term's maps do not fit.
    """
    batch = loader.batch(loader.rows[:2])
    mode = model.training
    model.eval()
    with Taps(model, student_layers(terms)) as taps:
        logits, features = taps(batch.images)
    model.train(mode)
    attached, adapters = [], nn.ModuleDict()
    for number, term in enumerate(terms):
        student, target = term.inputs(logits, features, batch)
        adapter = term.loss.adapter(student=student, target=target)
        if adapter is not None:
            adapters[str(number)] = adapter.to(loader.device)
            term = dataclasses.replace(term, adapter=adapter)
        attached.append(term)
    return tuple(attached), adapters


@torch.no_grad()
def check_pairs(
    terms: Sequence[Term], model: nn.Module, loader: Loader, *, names: tuple[str, str]
) -> None:
    """Run each term once, dry, so that a pair that does not fit fails before the first step.

    `names` are the student's and the teacher's. Raises ShapeError naming both layers and the
    student's layers that would fit; UnknownNameError for a layer that the student lacks. The
    model's state and mode are untouched.
    """
    batch = loader.batch(loader.rows[:2])
    mode = model.training
    model.eval()
    with Taps(model, student_layers(terms)) as taps:
        logits, features = taps(batch.images)
    for term in terms:
        try:
            term.value(logits, features, batch)
        except ShapeError as error:
            if term.student_layer is None:
                raise
            fitting = _fitting(term, model, loader, batch)
            raise ShapeError(
                f"{str(error).rstrip('.')} (student {names[0]} layer '{term.student_layer}', "
                f"teacher {names[1]} layer '{term.compares_with}'). Student layers that match: "
                f"{', '.join(fitting) or 'none'}."
            ) from None
    model.train(mode)


def _fitting(term: Term, model: nn.Module, loader: Loader, batch: Batch) -> list[str]:
    fitting = []
    for layer in list_layers(model, loader.image_shape):
        zeros = torch.zeros((len(batch.rows), *layer.shape), device=loader.device)
        try:
            target = batch.at(term.compares_with)
            adapter = term.loss.adapter(student=zeros, target=target)
            term.loss(student=zeros if adapter is None else adapter(zeros), target=target)
        except GeocacheError:
            continue
        fitting.append(f"{layer.path} ({'x'.join(map(str, layer.shape))})")
    return fitting


@torch.no_grad()
def calibrate(
    terms: Sequence[Term], model: nn.Module, loader: Loader, *, table: TrainTable
) -> Calibration:
    """Measure every term's mean size over `table.calibration_batches`; turn shares into weights.

    With own labels (`data.labels`) the first loss of theirs stands in for the cross-entropy.

    `weight = share * CE / L` with both means over the same batches, in training mode at the
    initial weights; the model's state (batch norm's statistics) is put back. Raises NumericError
    for a term whose size is not finite, or whose share cannot be met because it is 0.
    """
    before = copy.deepcopy(model.state_dict())
    cross_entropy = CrossEntropy()
    kinds = [term.loss.reads_labels for term in terms]
    own = next((n for n, kind in enumerate(kinds) if kind in ("binary", "values")), None)
    model.train()
    sums = torch.zeros(len(terms) + 1, dtype=torch.float64)
    n = 0
    plain = table.model_copy(update={"compile": False})
    with Forward(plain, model, student_layers(terms)) as forward:
        # Every rank measures whole batches: the weights are those of one process, to the bit.
        batches = loader.alone().epoch(0, drop_single=True)
        for batch in islice(batches, table.calibration_batches):
            logits, features = forward(batch.images)
            values = [term.value(logits, features, batch) for term in terms]
            if own is None:
                values.append(cross_entropy(student=full_precision(logits), target=batch.at()))
            else:
                values.append(values[own])
            sums += torch.stack(values).double().cpu()
            n += 1
    model.load_state_dict(before)
    *sizes, reference = (sums / n).tolist()
    weights = {}
    for term, size in zip(terms, sizes, strict=True):
        if not math.isfinite(size):
            raise NumericError(
                f"loss term '{term.label}' must be finite at the start, got {size}. Check the "
                "student's initial weights and the cached targets (`geocache verify`)."
            )
        if term.share is not None and not (size > 0 and reference > 0):
            raise NumericError(
                f"loss term '{term.label}' must be above 0 to take a share, got {size} beside a "
                f"cross-entropy of {reference}. Give it a weight instead."
            )
        weights[term.label] = (
            float(term.weight or 0.0) if term.share is None else term.share * reference / size
        )
    labels = [term.label for term in terms]
    return Calibration(reference, dict(zip(labels, sizes, strict=True)), weights)


@torch.no_grad()
def mean_total(
    terms: Sequence[Term],
    model: nn.Module,
    loader: Loader,
    weights: Mapping[str, float],
) -> float:
    """Return the weighted sum of the terms over the loader's rows, the model in evaluation mode.

    Rows are those of view 0; the weights are the calibrated ones, without their schedules, so that
    epochs compare. Raises NumericError when it is not finite.
    """
    mode = model.training
    model.eval()
    total, n_rows = 0.0, 0
    with Taps(model, student_layers(terms)) as taps:
        for batch in loader.in_order(0):
            n = len(batch.rows)
            if n == 1 and n_rows > 0:
                continue  # a single row at the end compares with nothing
            logits, features = taps(batch.images)
            values = [weights[t.label] * float(t.value(logits, features, batch)) for t in terms]
            total, n_rows = total + n * math.fsum(values), n_rows + n
    model.train(mode)
    if not math.isfinite(total):
        raise NumericError(
            "loss on the validation rows must be finite, got NaN or infinity. Lower train.lr."
        )
    return total / n_rows
