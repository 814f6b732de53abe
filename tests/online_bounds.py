"""How far a stored number may be off, from its type alone and, where derived, from its source."""

from __future__ import annotations

from typing import Any

import numpy as np
import plain_losses
import plain_targets
from numpy.typing import NDArray

Array = NDArray[Any]

WHOLE = ("mst", "knn")
SECOND_ORDER = 1.05
ROUNDING = 2.0**-18


def storage_error(name: str, exact: Array) -> Array:
    """Return the largest error of each stored number of a batch, from its type alone.

    float16 has 11 significant bits, and a spacing of 2^-24 below 2^-14: |t| 2^-11, at least 2^-25.
    J is one of 65536 equal steps over [0, 1]: half a step, 7.6e-6. int8 has 255 steps between the
    lowest and the highest value of each image and channel: half a step. A float32 activation is
    stored as it is, neighbourhoods and classes are whole numbers.
    """
    kind = name.partition(".")[0]
    if name == "activation.float32" or kind in WHOLE:
        return np.zeros(exact.shape)
    if name == "activation.int8":
        step = (exact.max((2, 3), keepdims=True) - exact.min((2, 3), keepdims=True)) / 255
        return step / 2 + np.abs(exact) * 2.0**-22
    if name.startswith("logits.top"):
        error = np.abs(exact) * 2.0**-22
        n_top = exact.shape[1] // 2
        error[:, n_top : 2 * n_top] = 0
        return error
    half = np.maximum(np.abs(exact) * 2.0**-11, 2.0**-25)
    if kind in ("activation", "logits"):
        return half
    # A statistic is a sum in float32 before it is rounded.
    stored = np.full_like(half, 1 / 131_070) if kind == "affinity" else half
    return stored + ROUNDING * np.abs(exact).max()


def inherited_error(name: str, output: Array) -> Array:
    """Return what a target loses that is computed from a float16 map or logits instead.

    To first order sum_j |dt/dx_j| 2^-11 |x_j|, by moving each x_j; the neighbourhood is held, since
    it is stored beside the map.
    """
    errors = []
    for x in output:
        wide = x.astype(np.float64)
        of_j = name.startswith("affinity")
        hood = plain_targets.mask(x.reshape(len(x), -1), name.partition(".")[2]) if of_j else x

        def measure(moved: Array, of_j: bool = of_j, hood: Array = hood) -> Array:
            if of_j:
                return plain_losses.affinity(moved.reshape(len(moved), -1), hood)
            return plain_targets.plain_target(name, moved[None])[0]

        error = np.zeros_like(measure(wide))
        for place in zip(*np.nonzero(x), strict=True):
            step = np.zeros_like(wide)
            step[place] = max(abs(wide[place]) * 2.0**-11, 2.0**-25)
            error += np.abs(measure(wide + step) - measure(wide - step)) / 2
        errors.append(error)
    return SECOND_ORDER * np.stack(errors)
