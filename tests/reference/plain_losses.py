"""The losses, written slowly from FORMULAS' equations in float64, image by image."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def cross_entropy(logits: Array, labels: NDArray[np.int64]) -> float:
    """Mean over labelled rows of -log softmax(s)[y]."""
    terms = []
    for s, y in zip(logits, labels, strict=True):
        if y >= 0:
            terms.append(math.log(sum(math.exp(v - s[y]) for v in s)))
    return sum(terms) / len(terms) if terms else 0.0


def distillation(student: Array, teacher: Array, temperature: float) -> float:
    """T^2 KL(softmax(t/T) || softmax(s/T)): sum over classes, mean over the batch."""
    total = 0.0
    for s, t in zip(student / temperature, teacher / temperature, strict=True):
        p = np.exp(t - t.max()) / np.exp(t - t.max()).sum()
        q = np.exp(s - s.max()) / np.exp(s - s.max()).sum()
        total += sum(pk * (math.log(pk) - math.log(qk)) for pk, qk in zip(p, q, strict=True))
    return temperature**2 * total / len(student)


def merged_distillation(student: Array, teacher: Array, temperature: float, top: int) -> float:
    """T^2 KL over the teacher's `top` largest classes and all the rest as one outcome."""
    total = 0.0
    for s, t in zip(student / temperature, teacher / temperature, strict=True):
        chosen = sorted(range(len(t)), key=lambda c: (-t[c], c))[:top]
        rest = [c for c in range(len(t)) if c not in chosen]
        p = np.exp(t - t.max()) / np.exp(t - t.max()).sum()
        q = np.exp(s - s.max()) / np.exp(s - s.max()).sum()
        outcomes = [(p[c], q[c]) for c in chosen] + [(p[rest].sum(), q[rest].sum())]
        total += sum(pk * (math.log(pk) - math.log(qk)) for pk, qk in outcomes if pk > 0)
    return temperature**2 * total / len(student)


def tree_distance(parents: NDArray[np.int64]) -> NDArray[np.int64]:
    """Hops between all pairs of nodes of a tree, by Floyd and Warshall."""
    n = len(parents)
    hops = np.full((n, n), n, dtype=np.int64)
    for i in range(n):
        hops[i, i] = 0
        if parents[i] != i:
            hops[i, parents[i]] = hops[parents[i], i] = 1
    for via in range(n):
        hops = np.minimum(hops, hops[:, via, None] + hops[None, via, :])
    return hops


def hop_mask(parents: NDArray[np.int64], radius: int) -> NDArray[np.bool_]:
    """m_ij = 1 where 1 <= g_ij <= r."""
    hops = tree_distance(parents)
    return (hops >= 1) & (hops <= radius)


def list_mask(neighbours: NDArray[np.int64]) -> NDArray[np.bool_]:
    """m_ij = 1 for the listed j."""
    mask = np.zeros((len(neighbours), len(neighbours)), dtype=np.bool_)
    for i, row in enumerate(neighbours):
        mask[i, row] = True
    return mask


def affinity(features: Array, mask: NDArray[np.bool_]) -> Array:
    """J_i = sum_j m_ij delta_ij / sum_j delta_ij (GeoReg eq 6); `features` is (channels, n)."""
    x = features.T
    delta = ((x[:, None, :] - x[None, :, :]) ** 2).sum(axis=2)
    rows = delta.sum(axis=1)
    return np.array(
        [(m * d).sum() / s if s > 0 else 0.0 for m, d, s in zip(mask, delta, rows, strict=True)]
    )


def affinity_contrast(
    features: Array, masks: list[NDArray[np.bool_]], teacher: Array, reduction: str
) -> float:
    """Mean over images of the sum (or mean) over i of (J_S,i - J_T,i)^2 (GeoReg eq 8)."""
    reduce = np.sum if reduction == "sum" else np.mean
    images = [
        reduce((affinity(x.reshape(len(x), -1), m) - j) ** 2)
        for x, m, j in zip(features, masks, teacher, strict=True)
    ]
    return float(np.mean(images))
