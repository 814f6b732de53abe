"""A fixed part of the rows, the same fraction of every class, for experiments with less data.

Which rows is a function of what they are (the digest of their content), their labels, the fraction
and a seed: one full cache serves every fraction, and every run and recipe sees the same rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geocache.errors import ConfigError
from geocache.student_train.order import _finalise, mix
from geocache.student_train.source import Source

__all__ = ["class_subset", "sample_keys"]

_SUBSET = 0x737562736574  # "subset": a key that no epoch number reaches


def sample_keys(source: Source) -> NDArray[np.uint64]:
    """Return 64 bits of every row's content digest; where a source has none, the row's number."""
    digests: Any = getattr(source, "sample_id", None)
    if digests is None:
        return np.arange(source.n_rows, dtype=np.uint64)
    return np.ascontiguousarray(digests[:, :8]).view("<u8").ravel().astype(np.uint64)


def class_subset(
    rows: NDArray[np.int64],
    labels: NDArray[np.int64],
    keys: NDArray[np.uint64],
    *,
    fraction: float,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Return, sorted, round(fraction n) of the n rows of each class, and at least one.

    Arguments: `rows` to choose from; `labels` (n_all,), where -1 is a class of its own; `keys`
    (n_all,) from `sample_keys`. Rows of equal content go together by their number. A larger
    fraction takes the same rows and more. Raises ConfigError for a fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"data.fraction must be above 0 and at most 1, got {fraction}.")
    rows = np.sort(rows)
    ranks = _finalise(keys[rows] ^ np.uint64(mix(seed, _SUBSET)))
    chosen = []
    for label in np.unique(labels[rows]):
        of_class = np.flatnonzero(labels[rows] == label)
        n = max(1, round(fraction * len(of_class)))
        chosen.append(of_class[np.argsort(ranks[of_class], kind="stable")[:n]])
    return np.sort(rows[np.concatenate(chosen)])
