"""A small teacher, its images, and caches of it: stored by the teacher, or derived from others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from online_cases import CASES, Online

from geocache.data.cache import Cache
from geocache.data.dataset import ArrayDataset
from geocache.data.datasets import open_dataset
from geocache.models import Taps, build_model
from geocache.pipeline import BuildRequest, build
from geocache.pipeline.derive import derive
from geocache.student_train import build_loss
from geocache.targets import target_from_name

__all__ = ["LAYER", "World", "build_worlds", "wanted"]

LAYER = "block2"
WIDTHS = (4, 6, 8)
MEAN, STD = (0.4, 0.5, 0.6), (0.3, 0.25, 0.2)
N_ROWS, BUILD_BATCH = 24, 8
# J and lists from activations in 8 bits are not derived; the rest follows from float16.
EXACT = ("activation.float32", "activation.int8")


@dataclass(frozen=True)
class World:
    """A cache, and what it is held against: the teacher in the loop, or its output in float16.

    `beside`: targets are derived from a float16 map and held against the float32 teacher.
    """

    cache: Cache
    online: Online
    beside: bool = False


def wanted() -> tuple[str, ...]:
    """Return the targets of all cases, and those that must not pass for them."""
    names: list[str] = []
    for case in CASES:
        names += build_loss(case.name, case.options).targets(LAYER)
        for wrong in case.wrong.values():
            names.append(wrong if wrong.startswith("logits") else f"{LAYER}/{wrong}")
    return tuple(dict.fromkeys(names))


def images() -> ArrayDataset:
    """Return digits of 24 x 24 pixels."""
    digits = open_dataset("digits")
    grey = np.stack([digits.read(i)[:, :, :1] for i in range(N_ROWS)])
    large = grey.repeat(3, axis=1).repeat(3, axis=2)
    return ArrayDataset(large, digits.labels[:N_ROWS], digits.classes, name="large", split="train")


def teacher_in_the_loop(data: ArrayDataset, order: np.ndarray) -> Online:
    """Run the teacher on the data set's pixels, in batches as a build does."""
    torch.manual_seed(0)
    model = build_model(
        "cnn1", n_classes=10, input_shape=(3, 24, 24), options={"widths": WIDTHS, "hidden": 16}
    )
    model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    pixels = torch.stack([torch.from_numpy(data.read(int(i))) for i in order])
    x = pixels.permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    maps, logits = [], []
    with Taps(model, [LAYER]) as taps:
        for part in x.split(BUILD_BATCH):
            output, tapped = taps(part)
            logits.append(output.numpy())
            maps.append(tapped[LAYER].contiguous().numpy())
    return Online(np.concatenate(maps), np.concatenate(logits), data.labels[order])


def build_worlds(folder: Path) -> dict[str, World]:
    """Return three: stored by the teacher; and derived, from float16 with and without its trees."""
    names = wanted()
    data = images()

    def built(store: str, targets: tuple[str, ...]) -> Cache:
        request = BuildRequest(
            dataset=data,
            model="cnn1",
            options={"widths": WIDTHS, "hidden": 16},
            n_classes=10,
            mean=MEAN,
            std=STD,
            targets=tuple(target_from_name(name) for name in targets),
            store=folder / store,
            executor="serial",
            batch_size=BUILD_BATCH,
            n_threads=1,
        )
        report = build(request)
        assert not report.failures
        return Cache(report.path)

    stored = built("stored", names)
    online = teacher_in_the_loop(data, stored.dataset_index)
    half = Online(
        online.maps.astype(np.float16).astype(np.float32),
        online.logits.astype(np.float16).astype(np.float32),
        online.labels,
    )
    held = ("logits", f"{LAYER}/activation")
    hoods = tuple(n for n in names if n.startswith((f"{LAYER}/mst", f"{LAYER}/knn")))
    worlds = {"stored": World(stored, online)}
    for kind, sources in (("derived", held), ("derived beside the trees", (*held, *hoods))):
        cache = built(kind, sources)
        rest = [n for n in names if n not in sources and not n.endswith(EXACT)]
        report = derive(cache, [target_from_name(name) for name in rest])
        assert set(report.derived) == set(rest)
        beside = kind != "derived"
        worlds[kind] = World(Cache(cache.path), online if beside else half, beside)
    return worlds
