"""The same student, losses and teacher with the teacher in the loop, against the cache.

Step by step, and for a whole training with the cache's build counted in: from both follows after
how many students the cache has paid for itself. The teacher in the loop runs without gradients on
the student's own batch, channels last, and its targets are computed by the code that builds caches;
nothing of it is stored.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn

import geocache.student_train as st
from benchmarks.ratio import Ratio, arguments, report
from benchmarks.step import AC, BATCH, KD, LAST, Step, Term, Variant, targets_of
from geocache.data.cache import Cache
from geocache.data.datasets import open_dataset
from geocache.models import Taps, build_model, load_weights
from geocache.pipeline import BuildRequest, build
from geocache.targets import LayerTarget, LocalFeatures, target_from_name

NST: Term = ("neuron_selectivity", {}, LAST)
VARIANTS = (
    Variant("KD", None, (KD,)),
    Variant("NST polynomial at 8x8", None, (NST,)),
    Variant("AC r=5 on both layers", None, (AC,)),
    Variant("AC + KD", None, (AC, KD)),
)


class TeacherInLoop:
    """A teacher that answers each batch as it comes, with what the code of builds measures."""

    def __init__(self, teacher: nn.Module, names: Sequence[str]) -> None:
        """Answer with the targets `names`; the teacher is brought to channels last."""
        self._wanted = [target_from_name(name) for name in names]
        teacher.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        layers = sorted({wanted.layer for wanted in self._wanted if wanted.layer})
        self._stack = ExitStack()
        self._taps = self._stack.enter_context(Taps(teacher, layers))

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the decoded targets of normalised images (batch, 3, H, W), by name."""
        output, tapped = self._taps(images.contiguous(memory_format=torch.channels_last))
        features: dict[str, LocalFeatures] = {}
        answers = {}
        for wanted in self._wanted:
            layer = wanted.layer or ""
            if layer not in features:
                features[layer] = LocalFeatures(tapped[layer] if layer else output, layer)
            answers[wanted.name] = _measured(wanted, features[layer])
        return answers


class OnlineStep(Step):
    """The step of a user who keeps the teacher in the loop."""

    def __init__(self, cache: Cache, variant: Variant, teacher: nn.Module) -> None:
        super().__init__(cache, variant)
        self.loader = st.Loader(cache, batch_size=BATCH)
        self.answers = TeacherInLoop(teacher, targets_of(variant))

    def _for_ever(self) -> Iterator[st.Batch]:
        epoch = 0
        while True:
            for batch in self.loader.epoch(epoch):
                if len(batch.rows) == BATCH:
                    yield dataclasses.replace(batch, targets=self.answers(batch.images))
            epoch += 1


def _measured(wanted: LayerTarget, features: LocalFeatures) -> torch.Tensor:
    return wanted.target.decode(torch.from_numpy(wanted.target.compute(features)))


def main() -> None:
    """Take steps with cross-entropy alone, from the cache and with the teacher, in turn."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--epochs", type=int, default=30, help="of the training that is priced")
    parser.add_argument("--teacher", default="resnet20")
    parser.add_argument("--weights", help="its checkpoint; a deep one's random weights overflow")
    options = parser.parse_args()
    ratios = []
    for variant in VARIANTS:
        with tempfile.TemporaryDirectory() as store:
            ratios += _compare(variant, Path(store), options)
    report(ratios, options.json)


def _compare(variant: Variant, store: Path, options: argparse.Namespace) -> list[Ratio]:
    n_rows, n_epochs, name = options.rows, options.epochs, options.teacher
    request = BuildRequest(
        dataset=open_dataset("fakedata", options={"n": n_rows, "size": 32}),
        model=name,
        weights=options.weights,
        n_classes=10,
        targets=tuple(target_from_name(target) for target in targets_of(variant)),
        store=store,
        executor="serial",
    )
    started = time.perf_counter()
    cache = Cache(build(request).path)
    build_s = time.perf_counter() - started
    teacher = build_model(name, n_classes=10, input_shape=(3, 32, 32))
    if options.weights:
        load_weights(teacher, options.weights)
    steps = (Step(cache, None), Step(cache, variant), OnlineStep(cache, variant, teacher))
    taken = [tuple(step() for step in steps) for _ in range(options.steps + 3)][3:]
    online = statistics.median(c / a for a, _, c in taken)
    cached = statistics.median(b / a for a, b, _ in taken)
    cached_s, online_s = (statistics.median(t[i] for t in taken) for i in (1, 2))
    a_training = n_epochs * (n_rows // BATCH)
    whole = (build_s + a_training * cached_s) / (a_training * online_s)
    students = build_s / max(a_training * (online_s - cached_s), 1e-9)
    said = f"{name}, {online_s * 1e3:.1f} against {cached_s * 1e3:.1f} ms"
    return [
        Ratio(f"online step: {variant.name}", online, None, False, said),
        Ratio(f"cached step: {variant.name}", cached, variant.bar, False),
        Ratio(
            f"training with build: {variant.name}", whole, None, False,
            f"{n_epochs} epochs of {n_rows} rows; paid for after {students:.2f} students",
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
