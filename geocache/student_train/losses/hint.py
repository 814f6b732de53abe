"""FitNet hint: a learned projection of the student's map reproduces the teacher's map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from geocache.errors import ShapeError
from geocache.student_train.losses._activations import Stored, activation_target
from geocache.student_train.losses._base import Loss, full_precision

__all__ = ["Hint"]


@dataclass(frozen=True)
class Hint(Loss):
    """Hint loss of Romero et al. 2015: `L = mean (r(f_S) - f_T)^2`, over all entries of the map.

    r is a 1x1 convolution with bias from the student's to the teacher's channels, trained with the
    student and saved in its checkpoint under `adapters`. The paper halves the sum of squares; the
    mean of squares is what public implementations weigh. O(N C_S C_T) an image.

    Arguments: `dtype`, how the teacher's map is stored. Raises ConfigError for another, ShapeError
    when the grids differ, naming both.
    """

    dtype: Stored = "float16"
    needs_layer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._name()

    def _name(self) -> str:
        return activation_target(self.dtype)

    def targets(self, layer: str | None = None) -> tuple[str, ...]:
        """Name the teacher's activation."""
        return (f"{layer}/{self._name()}" if layer else self._name(),)

    def adapter(self, *, student: Tensor, target: Mapping[str, Tensor]) -> nn.Module | None:
        """Return the projection r for these shapes."""
        n_ours, n_theirs = student.shape[1], target[self._name()].shape[1]
        if student.ndim == 2:
            return nn.Linear(n_ours, n_theirs)
        return nn.Conv2d(n_ours, n_theirs, kernel_size=1)

    def __call__(
        self, *, student: Float[Tensor, "batch channels *grid"], target: Mapping[str, Tensor]
    ) -> Float[Tensor, ""]:
        """Return L of the projected map; the target holds the teacher's map (batch, C, *grid)."""
        x = full_precision(student)
        theirs = target[self._name()].to(x.dtype)
        if x.shape[2:] != theirs.shape[2:]:
            ours, other = ("x".join(map(str, t.shape[2:])) or "no grid" for t in (x, theirs))
            raise ShapeError(
                f"hint must compare maps of one grid, got {ours} from the student and {other} from "
                "the teacher"
            )
        return (x - theirs).square().mean()


LOSS = Hint
