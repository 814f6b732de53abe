"""A cache in memory that keeps the read side's protocol, and recipes for it."""

from __future__ import annotations

import copy
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from geocache.data.views import ViewSet
from geocache.geometry import affinity_contrast, minimum_spanning_tree, nearest_neighbours
from geocache.student_train import Recipe, parse_recipe

for folder in (Path(__file__).parent, Path(__file__).parents[1] / "reference"):
    sys.path.insert(0, str(folder))


class FixedPoint:
    """16-bit fixed point in [0, 1], as J is stored."""

    def decode(self, stored: Tensor, /) -> Tensor:
        return stored.to(torch.float32) / 65535


class Whole:
    """Integers as they are, in torch's usual index type."""

    def decode(self, stored: Tensor, /) -> Tensor:
        return stored.to(torch.int64)


class Half:
    """float16 numbers."""

    def decode(self, stored: Tensor, /) -> Tensor:
        return stored.to(torch.float32)


@dataclass
class MemoryCache:
    """Arrays by name with their decoders; everything public is the protocol `Source`."""

    arrays: dict[str, Any]
    decoders: dict[str, Any]
    labels: Any
    valid: Any
    eval_images: Any
    eval_labels: Any
    classes: tuple[str, ...] = ("a", "b", "c")
    mean: tuple[float, ...] = (0.5, 0.4, 0.6)
    std: tuple[float, ...] = (0.2, 0.25, 0.3)
    key: str = "0123456789abcdef"
    rows_key: str = "these rows"
    built: dict[str, int] = field(default_factory=dict)

    @property
    def n_rows(self) -> int:
        return len(self.labels)

    def target_names(self) -> tuple[str, ...]:
        return tuple(name for name in self.arrays if name != "images")

    views: ViewSet = field(default_factory=ViewSet)

    @property
    def view_identity(self) -> dict[str, Any]:
        return asdict(self.views.identity())

    group: int = 2048

    def row_bytes(self, name: str, /) -> int:
        return self.arrays[name][:1].nbytes

    def group_rows(self, name: str, /) -> int:
        return self.group

    def view_parameters(self, view: int, stop: int, start: int = 0, /) -> Any:
        return self.arrays["views"][view, start:stop]

    def n_built(self, name: str, n_views: int | None = None, /) -> int:
        return self.built.get(name, self.n_rows)

    def read(self, name: str, start: int, stop: int, view: int = 0) -> Any:
        part = self.arrays[name][start:stop]
        part.flags.writeable = False
        return part

    def decoder(self, name: str, /) -> Any:
        return self.decoders[name]


N_ROWS, N_EVAL, N_CLASSES = 61, 30, 3


def _images(rng: np.random.Generator, n: int) -> tuple[Any, Any]:
    """Noise whose brightest quarter says the class: easy to learn, not at once."""
    labels = rng.integers(0, N_CLASSES, n)
    images = rng.integers(0, 160, (n, 12, 12, 3))
    for image, label in zip(images, labels, strict=True):
        image[(label % 2) * 6 :][:6, (label // 2) * 6 :][:, :6] += 90
    return images.astype(np.uint8), labels.astype(np.int64)


@pytest.fixture(scope="session")
def _cache() -> MemoryCache:
    rng = np.random.default_rng(5)
    images, labels = _images(rng, N_ROWS)
    eval_images, eval_labels = _images(rng, N_EVAL)
    features = torch.from_numpy(rng.standard_normal((N_ROWS, 5, 6, 6))).float()
    parents = minimum_spanning_tree(features)
    lists = nearest_neighbours(features, 4)
    tree_j = affinity_contrast(features, parents=parents, radius=2)
    list_j = affinity_contrast(features, neighbours=lists)
    logits = 3 * np.eye(N_CLASSES)[labels] + rng.standard_normal((N_ROWS, N_CLASSES))
    fixed = [(j * 65535).round().numpy().astype(np.uint16) for j in (tree_j, list_j)]
    valid = np.ones(N_ROWS, dtype=np.bool_)
    valid[7] = False
    return MemoryCache(
        arrays={
            "images": images,
            "logits": logits.astype(np.float16),
            "layer2/mst": parents.numpy().astype(np.uint8),
            "layer2/affinity.r2": fixed[0],
            "layer2/knn.k4": lists.numpy().astype(np.uint8),
            "layer2/affinity.k4": fixed[1],
        },
        decoders={
            "logits": Half(),
            "layer2/mst": Whole(),
            "layer2/affinity.r2": FixedPoint(),
            "layer2/knn.k4": Whole(),
            "layer2/affinity.k4": FixedPoint(),
        },
        labels=labels,
        valid=valid,
        eval_images=eval_images,
        eval_labels=eval_labels,
    )


@pytest.fixture
def cache(_cache: MemoryCache) -> MemoryCache:
    """A cache of 61 rows, row 7 invalid, with a 6x6 layer `layer2`; a copy to change at will."""
    return copy.deepcopy(_cache)


TABLES: dict[str, Any] = {
    "data": {"dataset": "fakedata"},
    "teacher": {"model": "resnet20"},
    "student": {"model": "tiny_student:build"},
    "loss": [
        {"name": "cross_entropy"},
        {"name": "distillation", "temperature": 2.0, "weight": 0.5},
        {
            "name": "affinity_contrast", "student": "block2", "teacher": "layer2", "radius": 2,
            "share": 0.5,
        },
    ],
    "train": {
        "epochs": 4, "batch_size": 16, "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4,
        "milestones": [2], "validation": 0.2, "device": "cpu", "threads": 1,
    },
}  # fmt: skip


@pytest.fixture
def tables() -> dict[str, Any]:
    """A recipe's tables with all three kinds of loss; a copy to change at will."""
    return copy.deepcopy(TABLES)


@pytest.fixture
def recipe(tables: dict[str, Any]) -> Recipe:
    """That recipe."""
    return parse_recipe(tables)
