"""How well streaming shuffles, next to the exact shuffle of resident mode."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from benchmarks.ratio import Ratio
from geocache.data.cache import Cache
from geocache.student_train.loadable import usable_rows
from geocache.student_train.order import Rows, epoch_order
from geocache.student_train.windows import WindowOrder

__all__ = ["class_imbalance", "neighbours_kept", "place_correlation", "shuffle_ratios"]


def streamed_order(rows: Rows, block_rows: int, window_rows: int, seed: int, epoch: int) -> Rows:
    """Return the rows in the order of an epoch of streaming."""
    order = WindowOrder(rows, block_rows, window_rows)
    return np.concatenate([order.rows_in(w, seed, epoch) for w in order.windows(seed, epoch)])


def class_imbalance(labels: NDArray[np.int64], batch_size: int) -> float:
    """Return the mean of chi-square a degree of freedom over an epoch's whole batches.

    X2 = sum_c (n_c - B p_c)^2 / (B p_c) with p_c the class's share of all rows, divided by
    classes - 1. About 1 where batches are drawn at random, more where they are lopsided.
    """
    n_classes = int(labels.max()) + 1
    expected = batch_size * np.bincount(labels, minlength=n_classes) / len(labels)
    whole = labels[: len(labels) // batch_size * batch_size].reshape(-1, batch_size)
    counts = (whole[:, :, None] == np.arange(n_classes)).sum(axis=1)
    return float((((counts - expected) ** 2 / expected).sum(axis=1) / (n_classes - 1)).mean())


def place_correlation(first: Rows, second: Rows) -> float:
    """Return the correlation of where a row stands in two epochs; 0 for independent shuffles."""
    a, b = (np.argsort(order, kind="stable").astype(np.float64) for order in (first, second))
    return float(np.corrcoef(a, b)[0, 1])


def neighbours_kept(first: Rows, second: Rows, batch_size: int) -> float:
    """Return how often two rows of one batch meet again in the next epoch, against chance."""
    batch = np.empty(int(first.max()) + 1, np.int64)
    batch[second] = np.arange(len(second)) // batch_size
    a, b = batch[first[:-1]], batch[first[1:]]
    return float((a == b).mean() / (batch_size / len(first)))


def shuffle_ratios(cache: Cache, batch_size: int) -> list[Ratio]:
    """Return the measures of streaming with the default window, beside those of exact shuffling."""
    rows, block = usable_rows(cache), cache.group_rows("images")
    epochs = range(8)
    exact = [epoch_order(rows, seed=0, epoch=e) for e in epochs]
    streamed = [streamed_order(rows, block, 8 * block, 0, e) for e in epochs]

    def imbalance(orders: list[Rows]) -> float:
        return float(np.mean([class_imbalance(cache.labels[o], batch_size) for o in orders]))

    def kept(orders: list[Rows]) -> float:
        return float(np.mean([neighbours_kept(a, b, batch_size) for a, b in pairwise(orders)]))

    # Blocks move as one: with b of them a correlation of 1 / sqrt(b) is chance.
    places = float(np.mean([place_correlation(a, b) for a, b in pairwise(streamed)]))
    ours, theirs = imbalance(streamed), imbalance(exact)
    return [
        Ratio("class imbalance of batches / exact shuffle", ours / theirs, 1.1, False,
              f"chi-square a degree of freedom {ours:.3f} against {theirs:.3f}"),
        Ratio("a row's places in successive epochs, correlation", abs(places), 0.2, False,
              f"{len(rows) // block} blocks"),
        Ratio("rows that meet again in the next epoch / chance", kept(streamed), None, False,
              f"exact shuffle {kept(exact):.2f}"),
    ]  # fmt: skip
