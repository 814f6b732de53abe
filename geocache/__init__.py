"""Knowledge distillation from a cache: run the teacher once, train any number of students.

Names are loaded when they are first used (PEP 562), so that `import geocache` costs nothing and
the command line answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geocache.data.cache import Cache
    from geocache.data.cache import open_cache as open  # noqa: A004
    from geocache.data.datasets import dataset_names, open_dataset
    from geocache.data.images import ImageSpec
    from geocache.errors import (
        CacheError,
        CheckpointError,
        ConfigError,
        DataError,
        GeocacheError,
        MissingDataError,
        MissingTargetError,
        NumericError,
        ShapeError,
        StorageError,
        UnknownNameError,
    )
    from geocache.geometry import (
        affinity_contrast,
        manifold_distance,
        minimum_spanning_tree,
        nearest_neighbours,
        normalised_distances,
        squared_distances,
        tree_mask,
    )
    from geocache.models import Taps, build_model, list_layers, load_weights, model_names
    from geocache.pipeline.build import BuildReport, BuildRequest, build
    from geocache.pipeline.imports import ImportReport, ImportRequest, import_targets
    from geocache.pipeline.verify import VerifyReport, verify
    from geocache.student_train import (
        Batch,
        Loader,
        Loss,
        Recipe,
        TrainResult,
        build_loss,
        load_recipe,
        loss_names,
        parse_recipe,
        required_targets,
        train,
    )
    from geocache.student_train.evaluate import evaluate, evaluate_run, load_student
    from geocache.student_train.losses.affinity_contrast import AffinityContrast
    from geocache.student_train.losses.cross_entropy import CrossEntropy
    from geocache.student_train.losses.distillation import Distillation
    from geocache.targets import LayerTarget, parse_target, target_names

__version__ = "0.1.0"

__all__ = [
    "AffinityContrast",
    "Batch",
    "BuildReport",
    "BuildRequest",
    "Cache",
    "CacheError",
    "CheckpointError",
    "ConfigError",
    "CrossEntropy",
    "DataError",
    "Distillation",
    "GeocacheError",
    "ImageSpec",
    "ImportReport",
    "ImportRequest",
    "LayerTarget",
    "Loader",
    "Loss",
    "MissingDataError",
    "MissingTargetError",
    "NumericError",
    "Recipe",
    "ShapeError",
    "StorageError",
    "Taps",
    "TrainResult",
    "UnknownNameError",
    "VerifyReport",
    "affinity_contrast",
    "build",
    "build_loss",
    "build_model",
    "dataset_names",
    "evaluate",
    "evaluate_run",
    "import_targets",
    "list_layers",
    "load_recipe",
    "load_student",
    "load_weights",
    "loss_names",
    "manifold_distance",
    "minimum_spanning_tree",
    "model_names",
    "nearest_neighbours",
    "normalised_distances",
    "open",
    "open_dataset",
    "parse_recipe",
    "parse_target",
    "required_targets",
    "squared_distances",
    "target_names",
    "train",
    "tree_mask",
    "verify",
]

_MODULES = {
    "geocache.data.cache": ("Cache", "open_cache"),
    "geocache.data.datasets": ("dataset_names", "open_dataset"),
    "geocache.data.images": ("ImageSpec",),
    "geocache.errors": tuple(name for name in __all__ if name.endswith("Error")),
    "geocache.geometry": (
        "affinity_contrast",
        "manifold_distance",
        "minimum_spanning_tree",
        "nearest_neighbours",
        "normalised_distances",
        "squared_distances",
        "tree_mask",
    ),
    "geocache.models": ("Taps", "build_model", "list_layers", "load_weights", "model_names"),
    "geocache.pipeline.build": ("BuildReport", "BuildRequest", "build"),
    "geocache.pipeline.imports": ("ImportReport", "ImportRequest", "import_targets"),
    "geocache.pipeline.verify": ("VerifyReport", "verify"),
    "geocache.student_train": (
        "Batch",
        "Loader",
        "Loss",
        "Recipe",
        "TrainResult",
        "build_loss",
        "load_recipe",
        "loss_names",
        "parse_recipe",
        "required_targets",
        "train",
    ),
    "geocache.student_train.evaluate": ("evaluate", "evaluate_run", "load_student"),
    "geocache.student_train.losses.affinity_contrast": ("AffinityContrast",),
    "geocache.student_train.losses.cross_entropy": ("CrossEntropy",),
    "geocache.student_train.losses.distillation": ("Distillation",),
    "geocache.targets": ("LayerTarget", "parse_target", "target_names"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
_RENAMED = {"open": "open_cache"}


def __getattr__(name: str) -> Any:
    original = _RENAMED.get(name, name)
    if name not in __all__ or original not in _MODULE_OF:
        raise AttributeError(f"module 'geocache' has no attribute '{name}'")
    value = getattr(importlib.import_module(_MODULE_OF[original]), original)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
