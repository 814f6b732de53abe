"""One training step with targets from a cache on disk, against the step with cross-entropy alone.

The cache is built here from fake images with a ResNet-20 of random weights: a step's price does not
depend on what the numbers say.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import torch

import geocache.student_train as st
from benchmarks.ratio import Ratio, arguments, report
from geocache.data.cache import Cache
from geocache.data.datasets import open_dataset
from geocache.models import Taps, build_model
from geocache.pipeline import BuildRequest, build
from geocache.targets import parse_target

PAIRS = {"conv2": "layer2", "conv3": "layer3"}
TERMS: dict[str, tuple[tuple[str, float], ...]] = {
    "KD": (("distillation", 1.03),),
    "AC on both layers": (("affinity_contrast", 1.20),),
    "AC + KD": (("affinity_contrast", 1.23), ("distillation", 1.23)),
}


class Step:
    """A student, its optimiser and the terms of its loss, one step at a time, for ever."""

    def __init__(self, cache: Cache, names: tuple[str, ...], batch_size: int) -> None:
        torch.manual_seed(0)
        self.model = build_model("simple_cnn", n_classes=10, input_shape=(3, 32, 32))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.cross_entropy = st.build_loss("cross_entropy", {})
        self.losses = [
            st.build_loss(name, {"radius": 5} if name == "affinity_contrast" else {})
            for name in names
        ]
        targets = []
        for loss in self.losses:
            layers = PAIRS.values() if loss.needs_layer else (None,)
            targets += [name for layer in layers for name in loss.targets(layer)]
        self.loader = st.Loader(cache, targets=targets, batch_size=batch_size)
        self.batches = self._for_ever()
        self.stack = ExitStack()
        tapped = tuple(PAIRS) if any(loss.needs_layer for loss in self.losses) else ()
        self.taps = self.stack.enter_context(Taps(self.model, tapped))

    def _for_ever(self) -> Iterator[st.Batch]:
        epoch = 0
        while True:
            yield from (b for b in self.loader.epoch(epoch) if len(b.rows) == 128)
            epoch += 1

    def __call__(self) -> float:
        """Take one step and return its seconds, loading and decoding included."""
        started = time.perf_counter()
        batch = next(self.batches)
        logits, features = self.taps(batch.images)
        total = self.cross_entropy(student=logits, target=batch.at())
        for loss in self.losses:
            if loss.needs_layer:
                for student, teacher in PAIRS.items():
                    total = total + 0.1 * loss(student=features[student], target=batch.at(teacher))
            else:
                total = total + 0.1 * loss(student=logits, target=batch.at())
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return time.perf_counter() - started


def main() -> None:
    """Take the steps of all variants in turn and compare the medians."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as store:
        targets = ["logits"]
        for layer in PAIRS.values():
            targets += [f"mst@{layer}", f"affinity:radius=5@{layer}"]
        made = build(
            BuildRequest(
                dataset=open_dataset("fakedata", options={"n": 4096, "size": 32}),
                model="resnet20",
                n_classes=10,
                targets=tuple(t for text in targets for t in parse_target(text)),
                store=Path(store),
                executor="serial",
            )
        )
        cache = Cache(made.path)
        variants = {"": Step(cache, (), 128)}
        for name, terms in TERMS.items():
            variants[name] = Step(cache, tuple(term for term, _ in terms), 128)
        times: dict[str, list[float]] = {name: [] for name in variants}
        for i in range(options.steps + 5):
            for name, step in variants.items():
                elapsed_s = step()
                if i >= 5:
                    times[name].append(elapsed_s)
    alone = times.pop("")
    ratios = []
    for name, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, alone, strict=True))
        detail = (
            f"{statistics.median(taken) * 1e3:.1f} against {statistics.median(alone) * 1e3:.1f} ms"
        )
        ratios.append(Ratio(f"step: {name}", ratio, TERMS[name][0][1], False, detail))
    report(ratios, options.json)


if __name__ == "__main__":
    main()
