"""Evaluate a student, or any model, over images that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geocache.data.views import ViewPolicy
from geocache.errors import CheckpointError, ConfigError, GeocacheError
from geocache.models import build_model
from geocache.student_train.checkpoint import load_checkpoint
from geocache.student_train.measure import Evaluation, measure
from geocache.student_train.normalise import Normalisation
from geocache.student_train.order import batch_bounds
from geocache.student_train.recipe import Recipe
from geocache.student_train.source import Source, eval_arrays

__all__ = ["Evaluation", "EvaluationSet", "evaluate", "evaluate_run", "load_student"]

_BATCH = 500


class EvaluationSet:
    """Images and labels kept on a device, for evaluating again and again.

    Arguments: `images` uint8 (n, H, W, 3); `labels` int64 (n,), -1 unlabelled; `mean` and `std` on
    pixels from 0 to 1; `policy`, whose views' size the images are brought to, whole.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: str | torch.device = "cpu",
        policy: ViewPolicy | None = None,
    ) -> None:
        self._policy = policy
        self._images = torch.tensor(images, device=device).permute(0, 3, 1, 2).contiguous()
        self._labels = torch.tensor(labels, dtype=torch.int64, device=device)
        self._normalise = Normalisation(mean, std, torch.device(device))

    def batches(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Yield (normalised images, labels), in order."""
        for part in batch_bounds(len(self._labels), _BATCH):
            pixels = self._images[part]
            if self._policy is not None:
                pixels = self._policy.whole(pixels)
            yield self._normalise(pixels), self._labels[part]

    def measure(self, model: nn.Module, *, details: bool = False) -> Evaluation:
        """Evaluate `model`, which must be on the same device."""
        return measure(model, self.batches(), details=details)


def evaluate(
    model: nn.Module,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: str | torch.device = "cpu",
    policy: ViewPolicy | None = None,
) -> Evaluation:
    """Evaluate `model` on uint8 images (n, H, W, 3) and labels (n,), class by class.

    policy: views whose size the images are brought to. Raises as `measure` does.
    """
    whole = EvaluationSet(images, labels, mean=mean, std=std, device=device, policy=policy)
    return whole.measure(model.to(device), details=True)


def load_student(
    out: str | Path, which: Literal["best", "last"] = "best"
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the trained student of the run in `out`, in evaluation mode, and its checkpoint.

    The checkpoint says how to use it: `classes`, `mean`, `std`, `input_shape`, `recipe`, `epoch`.
    Raises CheckpointError when the run holds no such checkpoint.
    """
    state = load_checkpoint(Path(out) / f"{which}.pt")
    try:
        recipe = Recipe.model_validate_json(state["recipe"])
        model = build_model(
            recipe.student.model,
            n_classes=len(state["classes"]),
            input_shape=tuple(state["input_shape"]),
            options=recipe.student.options,
        )
        model.load_state_dict(state["model"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, GeocacheError):
            raise
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"checkpoint must hold a student and its recipe, got {type(error).__name__}: {reason} "
            f"('{out}'). Name the folder that `geocache train` wrote."
        ) from None
    return model.eval(), state


def evaluate_run(
    out: str | Path,
    source: Source | None = None,
    *,
    which: Literal["best", "last"] = "best",
    device: str | torch.device = "cpu",
) -> Evaluation:
    """Evaluate the student of the run in `out` on its evaluation split.

    The images come from `source` (the cache's own copy), or else from the recipe's data set.
    Raises CheckpointError without a checkpoint, ConfigError without evaluation images.
    """
    model, state = load_student(out, which)
    recipe = Recipe.model_validate_json(state["recipe"])
    if recipe.data.labels is not None:
        raise ConfigError(
            f"run must have learned classes to be evaluated, got own labels ('{out}'). Its figures "
            "stand in metrics.csv, epoch by epoch."
        )
    if source is not None and source.eval_images is not None and source.eval_labels is not None:
        images, labels = source.eval_images, source.eval_labels
    else:
        arrays = eval_arrays(recipe)
        if arrays is None:
            raise ConfigError(
                f"run must have an evaluation split, got none ('{out}'). Set data.eval_split."
            )
        images, labels = arrays
    mean, std = tuple(state["mean"]), tuple(state["std"])
    policy = recipe.data.views.build().policy
    return evaluate(model, images, labels, mean=mean, std=std, device=device, policy=policy)
