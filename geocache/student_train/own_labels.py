"""Labels of the user's own, from a file: several answers or numbers an image instead of a class.

A cache keeps one class an image. What else is to be learned stands in a `.npy` file with one line
an image, in the data set's order, and is put in the place of the classes batch by batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray
from torch import Tensor

from geocache.errors import ConfigError, MissingDataError
from geocache.student_train.batch import Batch, Stored
from geocache.student_train.recipe import Recipe
from geocache.student_train.source import Source
from geocache.student_train.stream import Loader

__all__ = ["OwnLabels", "OwnLoader", "own_labels"]

Kind = Literal["binary", "values"]


@dataclass(frozen=True, eq=False)
class OwnLabels:
    """Labels (n_rows, k) by row and those of the evaluation split, NaN where unknown."""

    kind: Kind
    rows: Float32[Tensor, "rows k"]
    evaluation: Float32[Tensor, "images k"] | None

    @property
    def names(self) -> tuple[str, ...]:
        """Return names for the outputs: their numbers."""
        return tuple(str(number) for number in range(self.rows.shape[1]))


def own_labels(recipe: Recipe, source: Source, device: torch.device) -> OwnLabels | None:
    """Read the recipe's own labels, None where it has none.

    A row's line is its position in the data set (`dataset_index` of the cache). Raises
    MissingDataError for a file that is absent, ConfigError for one that does not fit.
    """
    data = recipe.data
    kinds = [k for k in (t.build().reads_labels for t in recipe.loss) if k in ("binary", "values")]
    if data.labels is None or not kinds:
        return None
    kind: Kind = "binary" if kinds[0] == "binary" else "values"
    lines = _read(data.labels, "data.labels", kind)
    index: Any = getattr(source, "dataset_index", None)
    index = np.arange(source.n_rows) if index is None else np.asarray(index)[: source.n_rows]
    usable = source.valid[: len(index)]
    if int(index[usable].max(initial=-1)) >= len(lines):
        raise ConfigError(
            f"data.labels must have a line for each of the data set's images, at least "
            f"{int(index[usable].max()) + 1}, got {len(lines)} ('{data.labels}')."
        )
    rows = np.full((source.n_rows, lines.shape[1]), np.nan, np.float32)
    rows[: len(index)][usable] = lines[index[usable]]
    evaluation = None
    if data.eval_labels is not None and source.eval_images is not None:
        evaluation = _read(data.eval_labels, "data.eval_labels", kind)
        if evaluation.shape != (len(source.eval_images), lines.shape[1]):
            raise ConfigError(
                f"data.eval_labels must be of shape ({len(source.eval_images)}, {lines.shape[1]}), "
                f"got {evaluation.shape} ('{data.eval_labels}')."
            )
    on_device = None if evaluation is None else torch.from_numpy(evaluation).to(device)
    return OwnLabels(kind, torch.from_numpy(rows).to(device), on_device)


def _read(path: str, key: str, kind: Kind) -> NDArray[np.float32]:
    try:
        found = np.load(path, allow_pickle=False)
    except OSError as error:
        raise MissingDataError(f"{key} must be a readable file, got '{path}': {error}.") from None
    except ValueError:
        raise ConfigError(f"{key} must be a .npy file of numbers, got '{path}'.") from None
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "biuf" or found.ndim > 2:
        raise ConfigError(f"{key} must be a .npy file of numbers of shape (n, k), got '{path}'.")
    lines = found.reshape(len(found), -1).astype(np.float32)
    if np.isinf(lines).any() or (kind == "binary" and ((lines < 0) | (lines > 1)).any()):
        allowed = "from 0 to 1" if kind == "binary" else "finite"
        raise ConfigError(f"{key} must be {allowed}, or NaN where unknown, got others ('{path}').")
    return lines


class OwnLoader(Loader):
    """A loader whose batches carry own labels (batch, k) instead of classes."""

    _own: Tensor

    @classmethod
    def around(cls, loader: Loader, own: OwnLabels) -> OwnLoader:
        """Return a loader that shares everything with `loader` but the labels."""
        made = cls.__new__(cls)
        made.__dict__.update(loader.__dict__)
        made._own = own.rows
        return made

    def _decoded(self, stored: Stored, view: int | None) -> Batch:
        batch = super()._decoded(stored, view)
        labels, partners = self._own.index_select(0, batch.rows), batch.partners
        if partners is not None:
            weights = partners.own_weights[:, None]
            labels = torch.lerp(self._own.index_select(0, partners.rows), labels, weights)
        return dataclasses.replace(batch, labels=labels, partners=None)


def own_figures(kind: Kind, outputs: Tensor, labels: Tensor) -> Mapping[str, float]:
    """Return `loss` and, of "binary" labels, `accuracy`; of "values", `r2`.

    Accuracy is the mean over labels of the part that is on the right side of 1/2. R^2 is the mean
    over labels of `1 - sum (s - y)^2 / sum (y - mean y)^2`; a label that does not vary is left out.
    """
    known = ~labels.isnan()
    y, s = labels.double().nan_to_num(0.0), outputs.double()
    n = known.sum(dim=0)
    used = n > 0
    if kind == "binary":
        losses = torch.nn.functional.binary_cross_entropy_with_logits(s, y, reduction="none")
        right = ((s > 0) == (y > 0.5)) & known
        figures = {"accuracy": (right.sum(dim=0) / n)[used].mean()}
    else:
        losses = (s - y).square()
        mean = (y * known).sum(dim=0) / n.clamp(min=1)
        spread = ((y - mean).square() * known).sum(dim=0)
        used = spread > 0
        figures = {"r2": (1 - (losses * known).sum(dim=0) / spread)[used].mean()}
    figures["loss"] = (losses * known).sum() / known.sum()
    return {name: float(value) for name, value in figures.items()}
