"""What storing a target costs: the error of stored numbers, of each loss and of its gradient.

Real images and a real teacher. Online: the targets in float64 from the teacher's float32 output,
and the loss in float64. Cached: build, read, decode, loss in float32, as a training step has it.
"as float32" and the like are no stored forms: the exact target rounded so, to show where float32
arithmetic alone stands and what another type would cost.

Relative errors: of an image's loss (of a batch's, where images are compared with each other), and
of the largest entry of an image's gradient with respect to the student's map.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.precision_variants import DERIVED, SOURCES, VARIANTS, Variant
from benchmarks.ratio import arguments
from geocache.data.cache import Cache
from geocache.data.datasets import open_dataset
from geocache.geometry import (
    affinity_contrast,
    attention_map,
    channel_gram,
    minimum_spanning_tree,
    nearest_neighbours,
    normalised_channels,
    squared_distances,
    unit_length,
)
from geocache.models import Taps, build_model
from geocache.pipeline import BuildRequest, build
from geocache.pipeline.derive import derive
from geocache.pipeline.teacher import Teacher, TeacherSpec
from geocache.student_train import Loader, Loss, build_loss
from geocache.targets import LocalFeatures, target_from_name
from geocache.targets.logits import Logits

LAYER, TAP = "layer3", "conv3"
BUILD_BATCH = KERNEL_BATCH = 64
Targets = dict[str, Tensor]
MAPS = ("activation", "activation.float32", "activation.int8")


BY_BATCH = ("pkt", "hybrid_kernel", "metric_transfer")
WHOLE = ("mst", "knn.k16")


def exact_targets(maps: Tensor, logits: Tensor) -> Targets:
    """Return what the losses compare with, in float64 from float32; trees and lists of float32."""
    wide = maps.double()
    parents, lists = minimum_spanning_tree(maps), nearest_neighbours(maps, 16)
    delta = squared_distances(wide)
    rows, columns = torch.triu_indices(delta.shape[1], delta.shape[2], offset=1)
    attention = unit_length(attention_map(wide)).view(len(maps), *maps.shape[2:])
    top = Logits(top=3, temperature=4.0).compute(LocalFeatures(logits, "the output"))
    return {
        "logits": logits.double(),
        # Its columns are float32 of float32 logits, but for the sum, which float32 rounds.
        "logits.top3.t4": torch.cat((torch.from_numpy(top).double()[:, :6], _rest(logits)), 1),
        "mst": parents,
        "knn.k16": lists,
        "affinity.r5": affinity_contrast(wide, parents=parents, radius=5),
        "affinity.k16": affinity_contrast(wide, neighbours=lists),
        "distance": delta[:, rows, columns] / delta.amax((1, 2))[:, None],
        "attention": attention,
        "mean_map": normalised_channels(wide).mean(dim=1),
        "gram": channel_gram(wide),
        "pooled": wide.mean((2, 3)),
        **dict.fromkeys(MAPS, wide),
    }


def _rest(logits: Tensor) -> Tensor:
    ordered = logits.double().sort(dim=1, descending=True).values
    return (ordered[:, 3:] / 4).logsumexp(dim=1, keepdim=True)


def evaluate(
    loss: Loss, student: Tensor, target: Targets, adapter: nn.Module
) -> tuple[float, Tensor]:
    """Return the loss of a batch and its gradient with respect to the student's map, in float64."""
    student = student.clone().requires_grad_()
    value = loss(student=adapter(student), target=target)
    (gradient,) = torch.autograd.grad(value, student)
    return float(value.detach()), gradient.double()


@dataclass(frozen=True)
class Line:
    """One measured row of the table; errors are relative."""

    label: str
    stored: str
    number: float
    """Largest error of a stored number, relative to the image's largest."""
    value: tuple[float, float]
    """Median and maximum over images (batches)."""
    gradient: tuple[float, float]

    def __str__(self) -> str:
        """Return a row of the table."""
        figures = (f"{x:>9.1e}" for x in (self.number, *self.value, *self.gradient))
        return f"{self.label:<26}{self.stored:<20}{' '.join(figures)}"


@dataclass(frozen=True)
class Moved:
    """The share of images whose neighbourhoods rounding moves, anywhere in the map."""

    label: str
    share: float

    def __str__(self) -> str:
        """Return a row of the table."""
        return f"{self.label:<46}moved in {self.share:.1%} of the images"


def measure(variant: Variant, student: Tensor, exact: Targets, cached: Targets | None) -> Line:
    """Compare online and cached, image by image or in batches."""
    loss = build_loss(variant.loss, variant.options)
    torch.manual_seed(0)
    adapter = loss.adapter(student=student, target=exact) or nn.Identity()
    wide_adapter = copy.deepcopy(adapter).double()
    names = loss.targets()
    size = KERNEL_BATCH if variant.loss in BY_BATCH else 1
    if cached is None:
        dtype = getattr(torch, variant.stored.removeprefix("as "))
        cached = {n: exact[n] if n in WHOLE else exact[n].to(dtype).float() for n in names}
    values, gradients = [], []
    for start in range(0, len(student), size):
        rows = slice(start, start + size)
        online, slope = evaluate(
            loss, student[rows].double(), {n: exact[n][rows] for n in names}, wide_adapter
        )
        ours, our_slope = evaluate(
            loss, student[rows], {n: cached[n][rows] for n in names}, adapter
        )
        values.append(abs(ours - online) / online)
        largest = slope.flatten(1).abs().amax(1)
        gradients += ((our_slope - slope).flatten(1).abs().amax(1) / largest).tolist()
    numbers = [n for n in names if n not in WHOLE]
    number = max(_number_error(cached[n].double(), exact[n]) for n in numbers)
    spread = (statistics.median(values), max(values))
    return Line(
        variant.label, variant.stored, number, spread,
        (statistics.median(gradients), max(gradients)),
    )  # fmt: skip


def _number_error(cached: Tensor, exact: Tensor) -> float:
    largest = exact.flatten(1).abs().amax(1)
    return float(((cached - exact).flatten(1).abs().amax(1) / largest).max())


def read(cache: Cache, names: tuple[str, ...], n_rows: int) -> Targets:
    """Return decoded targets of the first rows, by their bare names."""
    batch = next(Loader(cache, names, batch_size=n_rows, rows=range(n_rows)).in_order())
    return {**batch.at(), **batch.at(LAYER)}


def build_cache(options: argparse.Namespace, store: Path, kind: str, names: list[str]) -> Cache:
    """Return a cache that holds `names`: from the teacher, or derived from what `kind` says."""
    sources = SOURCES.get(kind, tuple(names))
    report = build(
        BuildRequest(
            dataset=open_dataset(f"imagefolder:{options.images}"),
            model="resnet20",
            weights=str(options.weights),
            n_classes=10,
            targets=tuple(target_from_name(name) for name in sources),
            store=store / kind,
            limit=options.rows,
            executor="serial",
            batch_size=BUILD_BATCH,
        )
    )
    rest = [target_from_name(name) for name in names if name not in sources]
    if rest:
        derive(Cache(report.path), rest)
    return Cache(report.path)


def lines(options: argparse.Namespace, store: Path) -> Iterator[Line | Moved]:
    """Build the caches and measure every variant."""
    wanted: dict[str, list[str]] = {}
    for variant in (*VARIANTS, *DERIVED):
        names = build_loss(variant.loss, variant.options).targets(LAYER)
        wanted.setdefault(variant.cache or "teacher", []).extend(names)
    caches = {
        kind: build_cache(options, store, kind, list(dict.fromkeys(names)))
        for kind, names in wanted.items()
    }
    held = caches["teacher"]
    images = held.read("images", 0, options.rows)
    spec = TeacherSpec("resnet20", str(options.weights), 10, (3, 32, 32), held.mean, held.std)
    with Teacher(spec) as teacher:
        ran = [teacher.tap((LAYER,)).run(part) for part in _parts(images)]
    maps = torch.cat([tensors[LAYER] for tensors in ran]).contiguous()
    exact = exact_targets(maps, torch.cat([tensors[""] for tensors in ran]))
    torch.manual_seed(options.seed)
    model = build_model("simple_cnn", n_classes=10, input_shape=(3, 32, 32)).eval()
    batch = next(Loader(held, batch_size=options.rows, rows=range(options.rows)).in_order())
    with torch.no_grad(), Taps(model, [TAP]) as taps:
        logits, features = taps(batch.images)
    for variant in (*VARIANTS, *DERIVED):
        loss = build_loss(variant.loss, variant.options)
        student = features[TAP] if loss.needs_layer else logits
        cached = None
        if variant.cache is not None:
            cached = read(caches[variant.cache], loss.targets(LAYER), options.rows)
        yield measure(variant, student.contiguous(), exact, cached)
        if variant.cache == "map" and cached is not None:
            for name in set(WHOLE) & set(cached):
                same = (cached[name] == exact[name]).flatten(1).all(1)
                yield Moved(f"{name} of the float16 map", 1 - float(same.double().mean()))


def _parts(images: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    return (images[start : start + BUILD_BATCH] for start in range(0, len(images), BUILD_BATCH))


def main() -> None:
    """Build, measure and print."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint of ResNet-20")
    parser.add_argument("--images", type=Path, required=True, help="folder of class folders")
    parser.add_argument("--rows", type=int, default=512, help="in whole batches of 64")
    parser.add_argument("--seed", type=int, default=0, help="of the student's initial weights")
    options = parser.parse_args()
    if options.rows < BUILD_BATCH or options.rows % BUILD_BATCH:
        parser.error(f"--rows must be a multiple of {BUILD_BATCH}, got {options.rows}")
    if not options.json:
        sys.stdout.write(f"{'':<26}{'':<20}{'number':>9}{'value':>19}{'gradient':>19}\n")
    with tempfile.TemporaryDirectory() as folder:
        for line in lines(options, Path(folder)):
            sys.stdout.write((json.dumps(asdict(line)) if options.json else str(line)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
