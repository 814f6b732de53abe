"""What `benchmarks.precision` measures: each loss, stored this way and that, and derived."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["DERIVED", "SOURCES", "VARIANTS", "Variant"]


@dataclass(frozen=True)
class Variant:
    """A loss, and where its target comes from: a cache by name, or the exact one rounded."""

    label: str
    loss: str
    options: Mapping[str, Any] = field(default_factory=dict)
    stored: str = "float16"
    cache: str | None = "teacher"


def _forms(label: str, loss: str, stored: str = "float16", **options: Any) -> Iterator[Variant]:
    """Yield the stored form and what the exact target costs in others."""
    yield Variant(label, loss, options, stored)
    for other in ("float16", "float32"):
        if other != stored:
            yield Variant(label, loss, options, f"as {other}", None)


def _types(label: str, loss: str, **options: Any) -> Iterator[Variant]:
    """Yield the three types of a stored map."""
    for dtype in ("float16", "float32", "int8"):
        yield Variant(label, loss, {**options, "dtype": dtype}, dtype)


VARIANTS = (
    *_forms("KD, T = 4", "distillation"),
    *_forms("KD, 3 largest, T = 4", "distillation", "float32", top=3),
    *_forms("AC, r = 5", "affinity_contrast", "fixed point", radius=5),
    *_forms("AC, k = 16", "affinity_contrast", "fixed point", k=16),
    *_forms("NP, r = 5", "neighbouring_pattern", radius=5),
    *_forms("NP, all pairs", "neighbouring_pattern"),
    *_forms("AT", "attention_transfer"),
    *_forms("AT, norm", "attention_transfer", reduction="norm"),
    *_forms("NST linear", "neuron_selectivity", kernel="linear"),
    *_forms("NST polynomial", "neuron_selectivity", kernel="polynomial"),
    *_types("NST Gaussian", "neuron_selectivity", kernel="gaussian"),
    *_types("hint", "hint"),
    *_forms("PKT, pooled", "pkt"),
    *_types("PKT, flattened", "pkt", features="flattened"),
    *_forms("hybrid kernel, pooled", "hybrid_kernel", features="pooled"),
    *_types("hybrid kernel, flattened", "hybrid_kernel"),
    *_forms("MKT, pooled", "metric_transfer"),
    *_types("MKT, flattened", "metric_transfer", features="flattened"),
)
DERIVED = (
    Variant("AC, r = 5", "affinity_contrast", {"radius": 5}, "tree + float16 map", "tree + map"),
    Variant(
        "AC, r = 5", "affinity_contrast", {"radius": 5}, "tree + distances", "tree + distances"
    ),
    Variant("AC, r = 5", "affinity_contrast", {"radius": 5}, "float16 map alone", "map"),
    Variant("AC, k = 16", "affinity_contrast", {"k": 16}, "float16 map alone", "map"),
    Variant("NP, r = 5", "neighbouring_pattern", {"radius": 5}, "float16 map alone", "map"),
    Variant("NP, all pairs", "neighbouring_pattern", {}, "float16 map", "map"),
    Variant("AT", "attention_transfer", {}, "float16 map", "map"),
    Variant("NST linear", "neuron_selectivity", {"kernel": "linear"}, "float16 map", "map"),
    Variant("NST polynomial", "neuron_selectivity", {}, "float16 map", "map"),
    Variant("PKT, pooled", "pkt", {}, "float16 map", "map"),
    Variant("KD, 3 largest, T = 4", "distillation", {"top": 3}, "float16 logits", "map"),
)
SOURCES = {
    "map": ("logits", "layer3/activation"),
    "tree + map": ("layer3/mst", "layer3/activation"),
    "tree + distances": ("layer3/mst", "layer3/distance"),
}
