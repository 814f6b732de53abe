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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import geocache.student_train as st
from benchmarks.ratio import Ratio, arguments, report
from geocache.data.cache import Cache
from geocache.data.datasets import open_dataset
from geocache.models import Taps, build_model
from geocache.pipeline import BuildRequest, build
from geocache.targets import target_from_name

BATCH = 128
BOTH = {"conv2": "layer2", "conv3": "layer3"}
LAST = {"conv3": "layer3"}


@dataclass(frozen=True)
class Variant:
    """A total loss beside cross-entropy: (loss, options, layer pairs) terms, and its bar."""

    name: str
    bar: float | None
    terms: tuple[tuple[str, dict[str, Any], dict[str, str]], ...]


Term = tuple[str, dict[str, Any], dict[str, str]]
AC: Term = ("affinity_contrast", {"radius": 5}, BOTH)
KD: Term = ("distillation", {}, {})
VARIANTS = (
    Variant("KD", 1.03, (KD,)),
    Variant("AT on both layers", 1.05, (("attention_transfer", {}, BOTH),)),
    Variant("PKT, pooled", 1.05, (("pkt", {}, LAST),)),
    Variant("hybrid kernel, flattened", None, (("hybrid_kernel", {}, LAST),)),
    Variant("MKT, pooled", None, (("metric_transfer", {}, LAST),)),
    Variant("contrastive", None, (("contrastive", {}, LAST),)),
    Variant("hint at 8x8", None, (("hint", {}, LAST),)),
    Variant("NST linear at 8x8", None, (("neuron_selectivity", {"kernel": "linear"}, LAST),)),
    Variant("NST polynomial at 8x8", 1.10, (("neuron_selectivity", {}, LAST),)),
    Variant("NST Gaussian at 8x8", None, (("neuron_selectivity", {"kernel": "gaussian"}, LAST),)),
    Variant("AC r=5 on both layers", 1.20, (AC,)),
    Variant("AC k=16 on both layers", None, (("affinity_contrast", {"k": 16}, BOTH),)),
    Variant("AC + KD", 1.23, (AC, KD)),
    Variant("NP r=5 on both layers", 1.40, (("neighbouring_pattern", {"radius": 5}, BOTH),)),
    Variant("NP r=inf on both layers", None, (("neighbouring_pattern", {}, BOTH),)),
)


class Step:
    """A student, its optimiser and the terms of its loss, one step at a time, for ever."""

    def __init__(self, cache: Cache, variant: Variant | None) -> None:
        torch.manual_seed(0)
        self.model = build_model("simple_cnn", n_classes=10, input_shape=(3, 32, 32))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.cross_entropy = st.build_loss("cross_entropy", {})
        terms = () if variant is None else variant.terms
        self.terms = [(st.build_loss(name, options), pairs) for name, options, pairs in terms]
        self.loader = st.Loader(cache, targets=targets_of(variant), batch_size=BATCH)
        self.batches = self._for_ever()
        self.stack = ExitStack()
        tapped = {layer for _, pairs in self.terms for layer in pairs}
        self.taps = self.stack.enter_context(Taps(self.model, sorted(tapped)))
        self.adapters: dict[str, torch.nn.Module] = {}

    def _for_ever(self) -> Iterator[st.Batch]:
        epoch = 0
        while True:
            yield from (b for b in self.loader.epoch(epoch) if len(b.rows) == BATCH)
            epoch += 1

    def __call__(self) -> float:
        """Take one step and return its seconds, loading and decoding included."""
        started = time.perf_counter()
        batch = next(self.batches)
        logits, features = self.taps(batch.images)
        total = self.cross_entropy(student=logits, target=batch.at())
        for loss, pairs in self.terms:
            if not pairs:
                total = total + 0.1 * loss(student=logits, target=batch.at())
            for ours, theirs in pairs.items():
                value = loss(student=self._adapted(loss, features[ours], batch.at(theirs)),
                             target=batch.at(theirs))  # fmt: skip
                total = total + 0.1 * value
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return time.perf_counter() - started

    def _adapted(self, loss: st.Loss, x: torch.Tensor, target: dict[str, torch.Tensor]) -> Any:
        """Pass the student's map through what the loss trains beside it."""
        key = repr(loss)
        if key not in self.adapters:
            adapter = loss.adapter(student=x, target=target)
            if adapter is not None:
                self.optimizer.add_param_group({"params": list(adapter.parameters())})
            self.adapters[key] = adapter or torch.nn.Identity()
        return self.adapters[key](x)


def targets_of(variant: Variant | None) -> tuple[str, ...]:
    """Return the cache's targets that a variant reads."""
    names: list[str] = []
    for name, options, pairs in variant.terms if variant else ():
        loss = st.build_loss(name, options)
        for layer in pairs.values() or (None,):
            names += loss.targets(layer)
    return tuple(dict.fromkeys(names))


def main() -> None:
    """Take the steps of all variants in turn and compare the medians."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as store:
        wanted = dict.fromkeys(name for variant in VARIANTS for name in targets_of(variant))
        made = build(
            BuildRequest(
                dataset=open_dataset("fakedata", options={"n": 2048, "size": 32}),
                model="resnet20",
                n_classes=10,
                targets=tuple(target_from_name(name) for name in wanted),
                store=Path(store),
                executor="serial",
            )
        )
        cache = Cache(made.path)
        alone = Step(cache, None)
        ratios = []
        for variant in VARIANTS:
            step = Step(cache, variant)
            pairs = [(alone(), step()) for _ in range(options.steps + 5)][5:]
            ratio = statistics.median(ours / theirs for theirs, ours in pairs)
            theirs_ms, ours_ms = (statistics.median(t) * 1e3 for t in zip(*pairs, strict=True))
            detail = f"{ours_ms:.1f} against {theirs_ms:.1f} ms"
            ratios.append(Ratio(f"step: {variant.name}", ratio, variant.bar, False, detail))
    report(ratios, options.json)


if __name__ == "__main__":
    main()
