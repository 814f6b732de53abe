"""Streaming shuffles nearly as well as an exact shuffle, on rows in a cache's order."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from benchmarks.shuffling import (
    class_imbalance,
    neighbours_kept,
    place_correlation,
    streamed_order,
)
from geocache.student_train.order import epoch_order

N, BLOCK, WINDOW, BATCH = 20_000, 256, 2048, 100
ROWS = np.arange(N, dtype=np.int64)


@pytest.fixture(scope="module")
def streamed() -> list[np.ndarray]:
    """Eight epochs in blocks of 256 rows, windows of 8 blocks."""
    return [streamed_order(ROWS, BLOCK, WINDOW, 0, epoch) for epoch in range(8)]


def test_batches_are_as_balanced_as_those_of_an_exact_shuffle(streamed: list[np.ndarray]) -> None:
    labels = np.random.default_rng(0).integers(0, 10, N)
    ours = np.mean([class_imbalance(labels[order], BATCH) for order in streamed])
    exact = np.mean([class_imbalance(labels[epoch_order(ROWS, seed=0, epoch=e)], BATCH)
                     for e in range(8)])  # fmt: skip
    # A degree of freedom has mean 1 and, over 1,600 batches, a standard error of 0.012.
    assert abs(exact - 1) < 0.06 and abs(ours - 1) < 0.06
    assert class_imbalance(np.sort(labels), BATCH) > 50  # what sorted rows would give


def test_a_row_stands_elsewhere_in_every_epoch(streamed: list[np.ndarray]) -> None:
    """79 blocks move: by chance two epochs correlate within some 1 / sqrt(79) = 0.11."""
    pairs = [(a, b) for i, a in enumerate(streamed) for b in streamed[:i]]
    found = [place_correlation(a, b) for a, b in pairs]
    assert abs(np.mean(found)) < 0.08 and np.max(np.abs(found)) < 0.45
    assert place_correlation(streamed[0], streamed[0]) == pytest.approx(1)


def test_rows_of_a_block_seldom_meet_again(streamed: list[np.ndarray]) -> None:
    """Of a batch's rows an eighth is of one's own block, which lies in one window of 20 batches.

    So they meet again 1/8 * N / window ~ 1.2 times and, elsewhere, about as often as by chance.
    """
    kept = [neighbours_kept(a, b, BATCH) for a, b in pairwise(streamed)]
    assert 0.5 < np.mean(kept) < 4
    assert neighbours_kept(streamed[0], streamed[0], BATCH) > 100
