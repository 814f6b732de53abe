"""Which row of a user's array belongs to which row of a cache, and what shows that it does.

An array in the wrong order trains a student on other images' answers, and nothing fails. So an
order is believed only when it is shown: by digests, which give it exactly; by labels, which must
agree row by row; or by logits that name the label far more often than chance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from geocache.errors import DataError

__all__ = ["Rows", "check_agreement", "check_labels", "check_sizes", "place", "settle_copies"]

_MOST_LIKELY_CHANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Rows:
    """What the rows of a cache are; `where` says whose they are."""

    labels: Int64[np.ndarray, " n"]
    dataset_index: Int64[np.ndarray, " n"]
    sample_id: UInt8[np.ndarray, "n 32"]
    n_classes: int
    where: str

    @property
    def n(self) -> int:
        """How many there are."""
        return len(self.labels)

    @property
    def largest_share(self) -> float | None:
        """The share of the largest class among labelled rows; None unless there are two classes."""
        known = self.labels[self.labels >= 0]
        counts = np.bincount(known) if len(known) else np.zeros(0, np.int64)
        return float(counts.max() / len(known)) if np.count_nonzero(counts) >= 2 else None


def check_sizes(
    rows: Rows,
    n: int,
    labels: np.ndarray[Any, Any] | None,
    ids: np.ndarray[Any, Any] | None,
    name: str,
) -> None:
    """Raise DataError unless an array of `n` rows, its labels and its ids have one size."""
    if ids is not None and (ids.dtype != np.uint8 or ids.shape != (n, 32)):
        raise DataError(
            f"ids must be uint8 ({n}, 32), the SHA-256 of each row's sample, got {ids.dtype} "
            f"{ids.shape} ({name}). A cache's `sample_id` shows them."
        )
    if ids is None and n != rows.n:
        raise DataError(
            f"array must have the {rows.n:,} rows of {rows.where}, got {n:,} ({name}). "
            "Import the outputs of all of its samples, or give --ids."
        )
    if labels is not None and (labels.dtype.kind not in "iu" or labels.shape != (n,)):
        raise DataError(
            f"labels must be whole numbers ({n},), one a row, got {labels.dtype} {labels.shape} "
            f"({name}). Save the class number of each row."
        )


def place(
    rows: Rows,
    order: Literal["dataset", "rows"],
    ids: UInt8[np.ndarray, "given 32"] | None,
    name: str,
) -> Int64[np.ndarray, " n"]:
    """Return for each row of the cache the array's row that belongs to it.

    Raises DataError when the ids are not those of the cache's samples, each as often. O(n log n).
    """
    if ids is None:
        return rows.dataset_index if order == "dataset" else np.arange(rows.n, dtype=np.int64)
    ours, theirs = _keys(rows.sample_id), _keys(ids)
    by_ours = np.argsort(ours, kind="stable")
    by_theirs = np.argsort(theirs, kind="stable")
    if len(ours) != len(theirs) or not np.array_equal(ours[by_ours], theirs[by_theirs]):
        needed, given = Counter(ours.tolist()), Counter(theirs.tolist())
        missing, strange = (needed - given).total(), (given - needed).total()
        raise DataError(
            f"ids must cover the {rows.n:,} rows of {rows.where}, each once, got {len(ids):,} of "
            f"which {strange:,} belong to none, while {missing:,} rows are missing ({name}). "
            "Give exactly the samples that the cache is made of."
        )
    positions = np.empty(rows.n, np.int64)
    positions[by_ours] = by_theirs
    return positions


def settle_copies(
    rows: Rows,
    positions: Int64[np.ndarray, " n"],
    content: Callable[[int], bytes],
    *,
    by_label: bool,
) -> Int64[np.ndarray, " n"]:
    """Return `positions` with copies of one sample in the order of their content.

    Copies are interchangeable, but their numbers may differ in the last bits; so the result does
    not depend on which came first. by_label: only copies with one label change places.
    """
    same = (rows.sample_id[1:] == rows.sample_id[:-1]).all(axis=1)
    if by_label:
        same &= rows.labels[1:] == rows.labels[:-1]
    settled = positions.copy()
    for start, stop in _runs(same):
        settled[start:stop] = sorted(positions[start:stop].tolist(), key=content)
    return settled


def _runs(same: Bool[np.ndarray, " pairs"]) -> list[tuple[int, int]]:
    """Return [start, stop) of every run of rows that are the same as their neighbour."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
    return [(int(a), int(b) + 1) for a, b in edges.reshape(-1, 2)]


def check_labels(
    rows: Rows,
    labels: np.ndarray[Any, Any],
    positions: Int64[np.ndarray, " n"],
    order: str,
    name: str,
) -> bool:
    """Return whether labels in the array's order show it: there are two classes and all agree.

    Rows that the cache has no label for are passed over. Raises DataError, naming the first row of
    the array that disagrees.
    """
    given = labels[positions]
    wrong = np.flatnonzero((rows.labels >= 0) & (given != rows.labels))
    if len(wrong):
        row = wrong[np.argmin(positions[wrong])]
        raise DataError(
            f"labels must be those of {rows.where} in the order '{order}', got {given[row]} in row "
            f"{positions[row]} for sample {rows.dataset_index[row]}, whose label is "
            f"{rows.labels[row]}; {len(wrong):,} of {rows.n:,} disagree ({name}). The order is "
            "probably wrong: give another --order, or --ids."
        )
    return rows.largest_share is not None


def check_agreement(n_hits: int, n_labelled: int, chance: float, order: str, name: str) -> None:
    """Raise DataError unless logits name the label clearly above chance.

    The test is binomial and one-sided: P(hits >= n_hits) < 1e-6 if each of `n_labelled` rows were
    right with probability `chance`, the share of the largest class.
    """
    from scipy.special import bdtrc

    if n_hits and float(bdtrc(n_hits - 1, n_labelled, chance)) < _MOST_LIKELY_CHANCE:
        return
    raise DataError(
        f"logits in the order '{order}' must name the label clearly above chance, got "
        f"{100 * n_hits / n_labelled:.1f} % of {n_labelled:,} labelled rows, where the largest "
        f"class alone gives {100 * chance:.1f} % ({name}). The order is probably wrong: give "
        "another --order, --labels or --ids; or --unchecked for a teacher that knows no better."
    )


def _keys(digests: UInt8[np.ndarray, "n 32"]) -> np.ndarray[Any, Any]:
    """View digests as byte strings that numpy sorts whole."""
    return np.ascontiguousarray(digests).view("V32").reshape(-1)
