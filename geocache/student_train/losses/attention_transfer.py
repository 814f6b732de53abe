"""Attention transfer: where the student looks follows where the teacher looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from geocache.errors import ConfigError, ShapeError
from geocache.geometry import attention_distance, attention_map, unit_length
from geocache.student_train.losses._base import Loss, full_precision, safe_root

__all__ = ["AttentionTransfer"]


@dataclass(frozen=True)
class AttentionTransfer(Loss):
    """Distance of normalised attention maps (Zagoruyko & Komodakis 2017, eq 2).

    `L_AT = d(A_S / |A_S|, A_T / |A_T|)`, `A = sum_c |f_c|^p`, mean over the batch. `reduction`
    chooses d: "mean_square" over positions is the authors' code, whose weight of 10^3 assumes it,
    and the default; "norm" is their paper's unsquared norm, with gradient 0 at 0; "sum_square" is
    what NST prints (eq 8). Where grids differ, the larger map is interpolated to the smaller grid.

    Invariant to scale and to the number of channels. O(N C) an image.

    Arguments: `p` >= 1, the exponent; `reduction`. Raises ConfigError for others, ShapeError when
    the student's layer has no grid.
    """

    p: int = 2
    reduction: Literal["mean_square", "sum_square", "norm"] = "mean_square"
    needs_layer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.p < 1:
            raise ConfigError(f"attention_transfer p must be at least 1, got {self.p}.")
        if self.reduction not in ("mean_square", "sum_square", "norm"):
            raise ConfigError(
                "attention_transfer reduction must be 'mean_square', 'sum_square' or 'norm', got "
                f"{self.reduction!r}."
            )

    def targets(self, layer: str | None = None) -> tuple[str, ...]:
        """Name the teacher's attention map."""
        prefix = f"{layer}/" if layer else ""
        return (prefix + self._name(),)

    def _name(self) -> str:
        return "attention" if self.p == 2 else f"attention.p{self.p}"

    def __call__(
        self, *, student: Float[Tensor, "batch channels *grid"], target: Mapping[str, Tensor]
    ) -> Float[Tensor, ""]:
        """Return L_AT; the target holds the teacher's map (batch, *grid), of any scale."""
        if student.ndim < 3:
            raise ShapeError(
                "attention_transfer must compare maps with a grid, got shape "
                f"{tuple(student.shape)}"
            )
        x = full_precision(student)
        theirs = target[self._name()].to(x.dtype)
        grid = tuple(map(min, zip(x.shape[2:], theirs.shape[1:], strict=True)))
        theirs = _on(theirs, grid)
        if tuple(x.shape[2:]) == grid:
            squares = attention_distance(x, theirs, self.p)
        else:
            ours = _on(attention_map(x, self.p).view(x.shape[0], *x.shape[2:]), grid)
            squares = (unit_length(ours) - unit_length(theirs)).square().sum(dim=1)
        if self.reduction == "mean_square":
            return squares.mean() / theirs.shape[1]
        return (squares if self.reduction == "sum_square" else safe_root(squares)).mean()


def _on(maps: Float[Tensor, "batch ..."], grid: tuple[int, ...]) -> Float[Tensor, "batch n"]:
    if tuple(maps.shape[1:]) != grid:
        maps = F.interpolate(maps[:, None], size=grid, mode="bilinear", align_corners=False)[:, 0]
    return maps.flatten(1)


LOSS = AttentionTransfer
