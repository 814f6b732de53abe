"""Get everything ready, and find everything that is wrong, before the first step."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from geocache.data.views import CELL_ROWS
from geocache.errors import ConfigError, MissingTargetError, ShapeError
from geocache.models import build_model, load_weights
from geocache.student_train.devices import ONE, Ranks
from geocache.student_train.forward import check_precision
from geocache.student_train.instructors import as_source
from geocache.student_train.loadable import find_target, usable_rows
from geocache.student_train.order import hold_out
from geocache.student_train.own_labels import OwnLabels, OwnLoader, own_labels
from geocache.student_train.recipe import Recipe, TrainTable, target_names
from geocache.student_train.run_log import check_tensorboard
from geocache.student_train.source import Source, dataset_source
from geocache.student_train.stream import Loader
from geocache.student_train.subset import class_subset, sample_keys
from geocache.student_train.terms import Term, attach_adapters, build_terms, check_pairs

__all__ = ["Setup", "prepare", "torch_settings"]


@dataclass(frozen=True)
class Setup:
    """The parts of a training: nothing in it changes but the student's weights."""

    source: Source
    student: nn.Module
    terms: tuple[Term, ...]
    adapters: nn.ModuleDict
    """What terms train beside the student, by the term's number."""
    loader: Loader
    validation: Loader | None
    device: torch.device
    validates_loss: bool = False
    """Whether the terms themselves are measured on the validation rows."""
    own: OwnLabels | None = None
    """Labels of the user's own, in the place of the classes."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the student's outputs."""
        return self.source.classes if self.own is None else self.own.names


@contextmanager
def torch_settings(table: TrainTable) -> Iterator[None]:
    """Use the recipe's thread count, and put threads and random state back afterwards."""
    n_threads = torch.get_num_threads()
    device = choose_device(table.device)
    gpus = [device.index or torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus), _deterministic(wanted=table.deterministic):
        try:
            if table.threads is not None:
                torch.set_num_threads(table.threads)
            yield
        finally:
            torch.set_num_threads(n_threads)


@contextmanager
def _deterministic(*, wanted: bool) -> Iterator[None]:
    """Let torch use deterministic algorithms alone for a while; it raises where it has none."""
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    # cuBLAS reads it when it is first used in the process; set by the user it stays theirs.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def prepare(
    recipe: Recipe,
    sources: Source | Mapping[str, Source] | None,
    *,
    device: torch.device | None = None,
    ranks: Ranks = ONE,
) -> Setup:
    """Open the data, build the student, and check that every term fits both.

    device: by default that of the recipe. The loader to train from gives this rank's part of every
    batch, the one to validate from all of it.
    """
    device = device or choose_device(recipe.train.device)
    check_precision(recipe.train, device)
    check_tensorboard(recipe.train)
    teachers = tuple(teacher.name for teacher in recipe.teacher)
    if sources is None:
        if teachers:
            raise ConfigError(
                "train must have the teacher's cache, got none. Open it with geocache.open, or "
                "take [teacher] out of the recipe."
            )
        sources = dataset_source(recipe, threads=recipe.train.threads or 2)
    source = as_source(sources, teachers)
    targets = target_names(recipe) if teachers else ()
    _check_targets(recipe, source, targets)
    _check_selection(recipe, source)
    rows = _rows(recipe, source)
    whole = Loader(
        source, targets, batch_size=recipe.train.batch_size, seed=recipe.train.seed, rows=rows,
        device=device, views=recipe.data.views.build(), view_offset=recipe.data.views.offset,
        fresh_views=not teachers, mode=recipe.data.mode, memory=recipe.data.memory,
        buffer_rows=recipe.data.buffer_rows, rank=ranks.rank, world_size=ranks.size,
        peers=None if ranks.size == 1 else ranks,
    )  # fmt: skip
    own = own_labels(recipe, source, device)
    if own is not None:
        whole = OwnLoader.around(whole, own)
    loader, validation = _split(recipe, whole)
    if len(loader.rows) < ranks.size:
        raise ConfigError(
            f"train.devices must be at most the rows to train on, got {ranks.size} for "
            f"{len(loader.rows)}. Use fewer devices."
        )
    if own is not None and own.evaluation is None and recipe.train.select == "test":
        raise ConfigError(
            "train.select must be 'validation' or 'loss' without data.eval_labels, got 'test'. "
            "Add the labels of the evaluation split, or choose by another."
        )
    if own is None:
        _check_labelled(recipe, source, validation)
    n_outputs = len(source.classes if own is None else own.names)
    student = build_student(recipe, n_outputs, whole.image_shape).to(device)
    if recipe.train.channels_last:
        student = student.to(memory_format=torch.channels_last)
    _check_classes(student, whole, n_outputs)
    terms = build_terms(recipe)
    terms, adapters = attach_adapters(terms, student, whole)
    check_pairs(terms, student, whole, names=(recipe.student.model, ", ".join(teachers) or "none"))
    return Setup(
        source, student, terms, adapters, loader, validation, device,
        validates_loss=recipe.train.select == "loss", own=own,
    )  # fmt: skip


def _rows(recipe: Recipe, source: Source) -> NDArray[np.int64] | None:
    """Return the rows to use, None for all: the first `limit`, of those each class's fraction."""
    data = recipe.data
    if data.fraction is None:
        return None if data.limit is None else usable_rows(source, data.limit)
    return class_subset(
        usable_rows(source, data.limit), source.labels, sample_keys(source),
        fraction=data.fraction, seed=data.subset_seed,
    )  # fmt: skip


def choose_device(wanted: str) -> torch.device:
    """Return the device; `auto` is the GPU where torch sees one. Raises ConfigError if absent."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    present = {
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present.get(device.type, True):
        raise ConfigError(
            f"train.device must be a device of this machine, got '{wanted}'. Use 'auto' or 'cpu'."
        )
    return device


def build_student(recipe: Recipe, n_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Return the student with initial weights that depend on the seed alone."""
    seed = recipe.train.seed if recipe.student.seed is None else recipe.student.seed
    torch.manual_seed(seed)
    student = build_model(
        recipe.student.model,
        n_classes=n_classes,
        input_shape=image_shape,
        options=recipe.student.options,
    )
    if recipe.student.weights is not None:
        load_weights(student, recipe.student.weights)
    return student


def _check_targets(recipe: Recipe, source: Source, targets: tuple[str, ...]) -> None:
    missing = []
    for target in targets:
        try:
            find_target(source, target)
        except MissingTargetError:
            missing.append(target)
    if missing:
        raise MissingTargetError(
            f"cache must hold the targets {', '.join(targets)}, but {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing (cache {source.key[:12]}). "
            f"Run `{recipe.build_command()}`."
        )


def _check_selection(recipe: Recipe, source: Source) -> None:
    if recipe.train.select == "test" and source.eval_images is None:
        raise ConfigError(
            "train.select must be 'validation' here, got 'test' although there are no evaluation "
            "images. Build the cache with data.eval_split set."
        )


def _split(recipe: Recipe, whole: Loader) -> tuple[Loader, Loader | None]:
    if recipe.train.select == "test":
        return whole, None
    fraction = recipe.train.validation
    # Nobody trains on a mixture with an image that is held out.
    cell = 1 if whole.views.mixing is None else CELL_ROWS
    rows, held = hold_out(whole.rows, fraction=fraction, seed=recipe.train.seed, cell=cell)
    if len(rows) == 0 or len(held) == 0:
        raise ConfigError(
            f"train.validation must leave rows to train and to validate on, got {fraction} of "
            f"{len(whole.rows)} rows. Use more rows or another fraction."
        )
    validation = whole.restrict(held, targets=recipe.train.select == "loss")
    return whole.restrict(rows), validation.alone()


def _check_labelled(recipe: Recipe, source: Source, validation: Loader | None) -> None:
    """Raise ConfigError where the best epoch is to be chosen by labels that are not there."""
    if recipe.train.select == "validation" and validation is not None:
        labels, where = source.labels[validation.rows], "rows that are held out"
    elif recipe.train.select == "test" and source.eval_labels is not None:
        labels, where = source.eval_labels, "evaluation images"
    else:
        return
    if not bool((labels >= 0).any()):
        raise ConfigError(
            f"train.select must be 'loss' where nothing is labelled, got '{recipe.train.select}' "
            f"and no label among the {where}."
        )


@torch.no_grad()
def _check_classes(student: nn.Module, loader: Loader, n_classes: int) -> None:
    mode = student.training
    logits = student.eval()(loader.batch(loader.rows[:2]).images)
    student.train(mode)
    if logits.ndim != 2 or logits.shape[1] != n_classes:
        raise ShapeError(
            f"student must return logits of shape (batch, {n_classes}), one for each class, got "
            f"{tuple(logits.shape)}. Set its number of classes."
        )
