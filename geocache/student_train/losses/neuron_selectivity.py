"""Neuron selectivity transfer: the student's channel maps are distributed like the teacher's.

MMD needs all pairs of channels; for the linear and the quadratic kernel it equals the distance of
two small statistics, so the teacher's channels are neither stored nor broadcast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from geocache.errors import ConfigError
from geocache.geometry import gram_distance, normalised_channels, to_grid
from geocache.student_train.losses._activations import Stored, activation_target, refuse_stored
from geocache.student_train.losses._base import Loss, full_precision
from geocache.student_train.losses._grids import to_nodes, to_smaller_grid

__all__ = ["NeuronSelectivity"]

Kernel = Literal["linear", "polynomial", "gaussian"]


@dataclass(frozen=True)
class NeuronSelectivity(Loss):
    """MMD^2 between the unit-length channel maps of teacher and student (NST eq 4-5).

    `MMD^2 = mean_kk' K(f_T^k, f_T^k') + mean K(f_S, f_S) - 2 mean K(f_T, f_S)`, mean over the
    batch; the paper's total weighs it lambda / 2 with lambda 50 (linear), 50 (polynomial), 100
    (Gaussian). Kernels: linear `x.y`, as |mean f_T - mean f_S|^2; polynomial `(x.y)^2`, as
    |G_T - G_S|_F^2 with G = (1/C) sum_k f^k f^kT (equal to eq 4; the paper's eq 9-10 leave out the
    1/C); Gaussian `exp(-|x-y|^2 / (2 sigma^2))` with sigma^2 the mean squared distance over all
    pairs of the two nets' maps, taken as a constant.

    A map of zeros contributes 0, counts in C and has gradient 0. Invariant to the scale and order
    of channels. O(N C), O(N^2 C) and O((C_T + C_S)^2 N) an image. A student with a larger grid is
    interpolated to the teacher's. Where it has the smaller one, `grid` names the grid (height,
    width) on which the teacher's statistic is to be taken; the Gaussian kernel, whose target is the
    activation, needs no telling.

    Arguments: `kernel`; `grid`, at most as large as either map; `dtype`, how the teacher's map is
    stored, for the Gaussian kernel alone. Raises ConfigError for others, ShapeError where the
    student's grid is the smaller one and `grid` does not say so.
    """

    kernel: Kernel = "polynomial"
    grid: tuple[int, int] | None = None
    dtype: Stored = "float16"
    needs_layer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.kernel not in (*_TARGETS, "gaussian"):
            raise ConfigError(
                f"neuron_selectivity kernel must be one of {', '.join(_TARGETS)}, gaussian, got "
                f"{self.kernel!r}."
            )
        if self.kernel != "gaussian":
            refuse_stored(self.dtype, "neuron_selectivity", _TARGETS[self.kernel])
        self._name()
        if self.grid is not None and self.kernel == "gaussian":
            raise ConfigError(
                "neuron_selectivity grid must be left out with the Gaussian kernel, whose target "
                f"is the activation, got {list(self.grid)}."
            )
        if self.grid is not None and min(self.grid) < 1:
            raise ConfigError(
                f"neuron_selectivity grid must be [height, width] from 1 up, got {list(self.grid)}."
            )

    def targets(self, layer: str | None = None) -> tuple[str, ...]:
        """Name the teacher's mean map, Gram matrix or activation."""
        prefix = f"{layer}/" if layer else ""
        return (prefix + self._name(),)

    def _name(self) -> str:
        if self.kernel == "gaussian":
            return activation_target(self.dtype)
        suffix = f".g{self.grid[0]}x{self.grid[1]}" if self.grid else ""
        return _TARGETS[self.kernel] + suffix

    def __call__(
        self, *, student: Float[Tensor, "batch channels *grid"], target: Mapping[str, Tensor]
    ) -> Float[Tensor, ""]:
        """Return MMD^2; the target is (batch, N), (batch, N, N) or the map (batch, C, H, W)."""
        x = full_precision(student)
        theirs = target[self._name()].to(x.dtype)
        if self.kernel == "gaussian":
            grid = tuple(map(min, zip(x.shape[2:], theirs.shape[2:], strict=True)))
            return _gaussian(to_grid(x, grid), to_grid(theirs, grid))
        if self.grid:
            x = to_smaller_grid(x, self.grid, "neuron_selectivity")
        else:
            x = to_nodes(x, theirs.shape[1], "neuron_selectivity")
        if self.kernel == "linear":
            return (normalised_channels(x).mean(dim=1) - theirs).square().sum(1).mean()
        return gram_distance(x, theirs).mean()


def _gaussian(ours: Tensor, theirs: Tensor) -> Tensor:
    s, t = normalised_channels(ours), normalised_channels(theirs)
    between = torch.cat([t, s], dim=1)
    n = t.shape[1]
    square = between.square().sum(dim=2)
    distance = square[:, :, None] + square[:, None] - 2 * between @ between.transpose(1, 2)
    distance = distance.clamp_min(0)
    variance = distance.detach().mean(dim=(1, 2), keepdim=True)
    # Maps that are all alike have no spread; then every kernel value is 1.
    kernel = torch.exp(-distance / (2 * variance.where(variance > 0, torch.ones_like(variance))))
    mmd = kernel[:, :n, :n].mean((1, 2)) + kernel[:, n:, n:].mean((1, 2))
    return (mmd - 2 * kernel[:, :n, n:].mean((1, 2))).clamp_min(0).mean()


_TARGETS: dict[Kernel, str] = {
    "linear": "mean_map",
    "polynomial": "gram",
}

LOSS = NeuronSelectivity
