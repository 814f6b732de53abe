"""Compiled attention distance and its gradient, image by image: one walk over the features.

With A_j = sum_c x_cj^2, u = A / |A|, t the teacher's map at unit length, e = u - t, d = |e|^2:

    dd/dA = 2 (e - u (u . e)) / |A|                dd/dx_cj = x_cj w_j,  w = 2 dd/dA
"""

from __future__ import annotations

from typing import Any

import numpy as np

from geocache.geometry._affinity_kernels import dot
from geocache.geometry._compile import kernel

__all__ = ["attention_and_slope"]

# Between these sums no square of a term that matters overflows or vanishes.
_LOWEST, _HIGHEST = 1e-15, 1e15


@kernel
def attention_and_slope(first: int, last: int, x: Any, theirs: Any, loss: Any, slope: Any) -> None:
    """Write d and w of each image; NaN for d where a map's scale needs more care than this.

    x: (batch, channels, n); theirs, slope: (batch, n); loss: (batch).
    """
    n_channels, n = x.shape[1:]
    one, four = x.dtype.type(1), x.dtype.type(4)
    ones, ours, error = np.ones(n, x.dtype), np.empty(n, x.dtype), np.empty(n, x.dtype)
    for i in range(first, last):
        for j in range(n):
            ours[j] = 0
        for c in range(n_channels):
            for j in range(n):
                ours[j] += x[i, c, j] * x[i, c, j]
        sum_ours, sum_theirs = dot(ours, ones, n), dot(theirs[i], ones, n)
        if not (_LOWEST < sum_ours < _HIGHEST and _LOWEST < sum_theirs < _HIGHEST):
            loss[i] = np.nan
            continue
        inverse = one / np.sqrt(dot(ours, ours, n))
        scale = one / np.sqrt(dot(theirs[i], theirs[i], n))
        for j in range(n):
            ours[j] *= inverse
            error[j] = ours[j] - theirs[i, j] * scale
        loss[i] = dot(error, error, n)
        along = dot(ours, error, n)
        for j in range(n):
            slope[i, j] = four * inverse * (error[j] - ours[j] * along)
