"""The feature losses of NST, AT, InfoFlow and GeoReg's NP, slowly in float64 from FORMULAS."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def unit(v: Array) -> Array:
    """v / |v|, 0 for 0."""
    norm = math.sqrt(float((v * v).sum()))
    return v / norm if norm > 0 else np.zeros_like(v)


def attention(features: Array, p: int) -> Array:
    """A / |A| with A = sum_c |f_c|^p; `features` is (channels, *grid), the result flat."""
    return unit((np.abs(features) ** p).sum(axis=0).ravel())


def attention_transfer(student: Array, teacher: Array, p: int, reduction: str) -> float:
    """Mean over images of the mean of squares, the sum of squares, or the norm."""
    values = []
    for s, t in zip(student, teacher, strict=True):
        square = (attention(s, p) - attention(t, p)) ** 2
        values.append(
            {
                "mean_square": square.mean(),
                "sum_square": square.sum(),
                "norm": math.sqrt(square.sum()),
            }[reduction]
        )
    return float(np.mean(values))


def mmd(student: Array, teacher: Array, kernel: str) -> float:
    """NST eq 4 with all pairs of channels, one after another."""
    values = []
    for s, t in zip(student, teacher, strict=True):
        f_s = [unit(c.ravel()) for c in s]
        f_t = [unit(c.ravel()) for c in t]
        both = f_t + f_s
        variance = float(np.mean([((a - b) ** 2).sum() for a in both for b in both]))

        def k(a: Array, b: Array, variance: float = variance) -> float:
            if kernel == "linear":
                return float(a @ b)
            if kernel == "polynomial":
                return float(a @ b) ** 2
            return math.exp(-float(((a - b) ** 2).sum()) / (2 * variance))

        values.append(
            np.mean([k(a, b) for a in f_t for b in f_t])
            + np.mean([k(a, b) for a in f_s for b in f_s])
            - 2 * np.mean([k(a, b) for a in f_t for b in f_s])
        )
    return float(np.mean(values))


def neighbouring_pattern(student: Array, teacher: Array, masks: list[NDArray[np.bool_]]) -> float:
    """Mean over images of |(D_S o M) - (D_T o M)|_F (GeoReg eq 3-5)."""
    values = []
    for s, t, mask in zip(student, teacher, masks, strict=True):
        total = 0.0
        d_s, d_t = _pattern(s), _pattern(t)
        for i, j in zip(*np.nonzero(mask), strict=True):
            total += (d_s[i, j] - d_t[i, j]) ** 2
        values.append(math.sqrt(total))
    return float(np.mean(values))


def _pattern(features: Array) -> Array:
    x = features.reshape(len(features), -1).T
    delta = ((x[:, None] - x[None]) ** 2).sum(axis=2)
    rows = delta.sum(axis=1, keepdims=True)
    return np.divide(delta, rows, out=np.zeros_like(delta), where=rows > 0)


def cosine(x: Array) -> Array:
    """(cos(a, b) + 1) / 2."""
    return np.array([[(unit(a) @ unit(b) + 1) / 2 for b in x] for a in x])


def distance(a: Array, b: Array) -> float:
    """sqrt(|a - b|^2 + 1e-6), as the authors' code."""
    return math.sqrt(float(((a - b) ** 2).sum()) + 1e-6)


def student_t(x: Array, p: float) -> Array:
    """1 / (1 + |a - b|^p)."""
    return np.array([[1 / (1 + distance(a, b) ** p) for b in x] for a in x])


def conditional(kernel: Array, diagonal: bool) -> Array:
    """Rows divided by their sums, or, without the diagonal, columns by theirs (InfoFlow eq 5)."""
    n = len(kernel)
    out = np.zeros_like(kernel)
    for i in range(n):
        for j in range(n):
            if diagonal:
                out[i, j] = kernel[i, j] / sum(kernel[i])
            elif i != j:
                out[i, j] = kernel[i, j] / sum(kernel[m, j] for m in range(n) if m != j)
    return out


def pkt(student: Array, teacher: Array) -> float:
    """Mean over pairs of p log((p + e) / (q + e)), e = 1e-7."""
    p, q = conditional(cosine(teacher), True), conditional(cosine(student), True)
    return float((p * np.log((p + 1e-7) / (q + 1e-7))).mean())


def hybrid(student: Array, teacher: Array, power: float, diagonal: bool) -> float:
    """Jeffreys divergence on both kernels, mean over all pairs (InfoFlow eq 7-8)."""
    total = 0.0
    for kernel in (cosine, lambda x: student_t(x, power)):
        p, q = conditional(kernel(teacher), diagonal), conditional(kernel(student), diagonal)
        for i in range(len(p)):
            for j in range(len(p)):
                if p[i, j] > 0:
                    gap = math.log(p[i, j]) - math.log(q[i, j])
                    total += (p[i, j] - q[i, j]) * gap / len(p) ** 2
    return total


def metric_transfer(student: Array, teacher: Array) -> float:
    """Mean over pairs of |d_T - d_S|."""
    n = len(student)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    gaps = [
        abs(distance(teacher[i], teacher[j]) - distance(student[i], student[j])) for i, j in pairs
    ]
    return float(np.mean(gaps))


def contrastive(student: Array, labels: NDArray[np.int64], margin: float) -> float:
    """Mean over labelled pairs of y d^2 + (1 - y) max(0, m - d)^2."""
    n = len(student)
    values = []
    for i in range(n):
        for j in range(i + 1, n):
            if labels[i] < 0 or labels[j] < 0:
                continue
            d = distance(student[i], student[j])
            values.append(d**2 if labels[i] == labels[j] else max(0.0, margin - d) ** 2)
    return float(np.mean(values)) if values else 0.0
