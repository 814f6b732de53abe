"""Bring a student's map to the teacher's grid where the two differ, or say why it cannot be."""

from __future__ import annotations

import math

from torch import Tensor

from geocache.errors import ShapeError
from geocache.geometry import to_grid

__all__ = ["require_positions", "to_nodes", "to_smaller_grid"]


def to_nodes(student: Tensor, n: int, loss: str) -> Tensor:
    """Bring a student's map to the teacher's n positions, on a grid of the same proportions.

    Raises ShapeError when the student's grid is the smaller one (the teacher's statistic cannot be
    interpolated after the fact) or has other proportions.
    """
    if student.ndim != 4:
        raise ShapeError(f"{loss} must compare maps with a grid, got shape {tuple(student.shape)}")
    height, width = student.shape[2:]
    if height * width == n:
        return student
    scale = math.sqrt(n / (height * width))
    grid = (round(height * scale), round(width * scale))
    if scale > 1 or grid[0] * grid[1] != n:
        raise ShapeError(
            f"{loss} must compare a student's grid with an equal or smaller one of the teacher, "
            f"got {height}x{width} from the student and {n} positions from the teacher. Set "
            f"grid = [{height}, {width}] to have the teacher's map interpolated to the student's"
        )
    return to_grid(student, grid)


def to_smaller_grid(student: Tensor, grid: tuple[int, int], loss: str) -> Tensor:
    """Interpolate a student's map to `grid`; raise ShapeError where its own is the smaller one."""
    if student.ndim != 4:
        raise ShapeError(f"{loss} must compare maps with a grid, got shape {tuple(student.shape)}")
    height, width = student.shape[2:]
    if height < grid[0] or width < grid[1]:
        both = (min(height, grid[0]), min(width, grid[1]))
        raise ShapeError(
            f"{loss} grid must be no larger than the student's, got {grid[0]}x{grid[1]} and a "
            f"student of {height}x{width}. Set grid = [{both[0]}, {both[1]}]"
        )
    return to_grid(student, grid)


def require_positions(student: Tensor, n_teacher: int, loss: str) -> None:
    """Raise ShapeError, naming both grids, unless the student's map has the teacher's positions."""
    grid = tuple(student.shape[2:])
    if student.ndim < 3 or math.prod(grid) != n_teacher:
        got = "x".join(map(str, grid)) if grid else "no grid"
        side = math.isqrt(n_teacher)
        teacher = f"{side}x{side}" if side * side == n_teacher else f"{n_teacher} positions"
        raise ShapeError(
            f"{loss} must compare maps of one grid, "
            f"got {got} from the student and {teacher} from the teacher"
        )
