"""Every registered loss with its options, and the slow float64 formula of the same loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import plain_losses
import plain_targets
import plain_transfer as plain
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Online:
    """What a user with the teacher in the loop has: its float32 maps and logits, and the labels."""

    maps: Array
    logits: Array
    labels: NDArray[np.int64]

    def of(self, target: str) -> Array:
        """Return a target by the float64 formulas, computed from the float32 output."""
        return plain_targets.plain_target(
            target, self.logits if target.startswith("logits") else self.maps
        )


@dataclass(frozen=True)
class Case:
    """A loss with options, and `slow(student, online)`, its value by the papers' equation."""

    name: str
    options: dict[str, Any]
    slow: Callable[[Array, Online], float]
    wrong: dict[str, str] = field(default_factory=dict)
    """For a target that the loss reads, another that is stored and must not pass for it."""
    value_scale: float = 0.0
    """Size of the terms that cancel in the value, in which float32 rounds."""

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{k}={v}" for k, v in self.options.items())])

    @property
    def by_image(self) -> bool:
        """Whether the loss is a mean over images, each compared with itself."""
        return self.name not in ("pkt", "hybrid_kernel", "metric_transfer", "contrastive")


def _pooled(maps: Array) -> Array:
    return maps.reshape(*maps.shape[:2], -1).mean(axis=2, dtype=np.float64)


def _flat(maps: Array) -> Array:
    return maps.reshape(len(maps), -1).astype(np.float64)


_ROWS = {"pooled": _pooled, "flattened": _flat}


def _kd(temperature: float, wrong: dict[str, str] | None = None, **options: Any) -> Case:
    def slow(s: Array, t: Online) -> float:
        if options:
            return plain_losses.merged_distillation(s, _wide(t.logits), temperature, options["top"])
        return plain_losses.distillation(s, _wide(t.logits), temperature)

    options_all = {"temperature": temperature, **options}
    return Case("distillation", options_all, slow, wrong or {}, value_scale=temperature**2)


def _wide(x: Array) -> Array:
    return x.astype(np.float64)


def _reach(options: dict[str, Any]) -> str:
    return next((f"{key[0]}{options[key]}" for key in ("radius", "k") if key in options), "")


def _masks(maps: Array, reach: str) -> list[Array]:
    return [plain_targets.mask(x.reshape(len(x), -1), reach) for x in maps]


def _ac(wrong: str, **options: Any) -> Case:
    reach = _reach(options)

    def slow(s: Array, t: Online) -> float:
        reduction = options.get("reduction", "sum")
        masks = _masks(t.maps, reach)
        return plain_losses.affinity_contrast(s, masks, t.of(f"affinity.{reach}"), reduction)

    return Case("affinity_contrast", options, slow, {f"affinity.{reach}": f"affinity.{wrong}"})


def _np(**options: Any) -> Case:
    def slow(s: Array, t: Online) -> float:
        return plain.neighbouring_pattern(s, _wide(t.maps), _masks(t.maps, _reach(options)))

    return Case("neighbouring_pattern", options, slow)


def _at(p: int, reduction: str) -> Case:
    def slow(s: Array, t: Online) -> float:
        return plain.attention_transfer(s, _wide(t.maps), p, reduction)

    wrong = {"attention": "attention.p1"} if p == 2 else {f"attention.p{p}": "attention"}
    return Case("attention_transfer", {"p": p, "reduction": reduction}, slow, wrong)


def _nst(kernel: str, **options: Any) -> Case:
    def slow(s: Array, t: Online) -> float:
        return plain.mmd(s, _wide(t.maps), kernel)

    return Case("neuron_selectivity", {"kernel": kernel, **options}, slow, value_scale=1.0)


def _hint(dtype: str) -> Case:
    return Case("hint", {"dtype": dtype}, lambda s, t: float(((s - _wide(t.maps)) ** 2).mean()))


def _kernel(name: str, formula: Callable[..., float], *more: Any, **options: Any) -> Case:
    rows = _ROWS[options["features"]]

    def slow(s: Array, t: Online) -> float:
        return formula(rows(s), rows(t.maps), *more)

    return Case(name, options, slow, value_scale=0.2)


CASES = (
    Case("cross_entropy", {}, lambda s, t: plain_losses.cross_entropy(s, t.labels)),
    _kd(4.0),
    _kd(1.0),
    _kd(4.0, {"logits.top3.t4": "logits.top3.t2"}, top=3),
    _kd(2.0, {"logits.top3.t2": "logits.top3.t4"}, top=3),
    _ac("r1", radius=2),
    _ac("r2", radius=1, reduction="mean"),
    _ac("k2", k=3),
    _ac("k3", k=2, reduction="mean"),
    _np(radius=2),
    _np(k=3),
    _np(),
    *(_at(2, reduction) for reduction in ("mean_square", "sum_square", "norm")),
    _at(1, "mean_square"),
    _nst("linear"),
    _nst("polynomial"),
    *(_nst("gaussian", dtype=dtype) for dtype in ("float16", "float32", "int8")),
    *(_hint(dtype) for dtype in ("float16", "float32", "int8")),
    _kernel("pkt", plain.pkt, features="pooled"),
    *(
        _kernel("pkt", plain.pkt, features="flattened", dtype=dtype)
        for dtype in ("float16", "float32", "int8")
    ),
    _kernel("hybrid_kernel", plain.hybrid, 1.0, True, features="pooled"),
    _kernel("hybrid_kernel", plain.hybrid, 2.0, False, features="pooled", p=2.0, diagonal=False),
    *(
        _kernel("hybrid_kernel", plain.hybrid, 1.0, True, features="flattened", dtype=dtype)
        for dtype in ("float16", "float32", "int8")
    ),
    _kernel("metric_transfer", plain.metric_transfer, features="pooled"),
    *(
        _kernel("metric_transfer", plain.metric_transfer, features="flattened", dtype=dtype)
        for dtype in ("float16", "float32", "int8")
    ),
    Case(
        "contrastive",
        {"margin": 2.0},
        lambda s, t: plain.contrastive(_flat(s), t.labels, 2.0),
    ),
)
