"""Decide what a build has to do, as a pure function of the layouts and of what is committed.

A unit is one view of up to 2,048 rows: one pass through the teacher that fills every row group that
is missing there. Two units never write the same object.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from geocache.data.layout import UNIT_ROWS, ArrayLayout, Group

__all__ = ["Missing", "Unit", "missing_bytes", "plan_units"]


@dataclass(frozen=True)
class Missing:
    """A row group of an array that is to be computed."""

    path: str
    group: Group


@dataclass(frozen=True)
class Unit:
    """One view of rows [start, stop) and the row groups missing there."""

    view: int
    start: int
    stop: int
    missing: tuple[Missing, ...]


def plan_units(
    layouts: Iterable[ArrayLayout],
    committed: Mapping[str, Mapping[tuple[int, int], int]],
    stop: int,
) -> list[Unit]:
    """Return the units that bring every array to rows [0, stop), in row order, view by view.

    committed: for each path, the rows under a receipt by (view, group). A group of which fewer rows
    are committed than are asked for is done again whole. O(arrays x row groups).
    """
    by_unit: dict[tuple[int, int], list[Missing]] = {}
    for layout in layouts:
        done = committed.get(layout.path, {})
        for group in layout.groups(stop):
            if done.get((group.view, group.index), 0) < group.stop - group.start:
                unit = (group.view, group.start // UNIT_ROWS)
                by_unit.setdefault(unit, []).append(Missing(layout.path, group))
    return [
        Unit(view, index * UNIT_ROWS, min((index + 1) * UNIT_ROWS, stop), tuple(missing))
        for (view, index), missing in sorted(by_unit.items())
    ]


def missing_bytes(units: Iterable[Unit], layouts: Mapping[str, ArrayLayout]) -> int:
    """Return the uncompressed bytes that the units will write."""
    return sum(
        (m.group.stop - m.group.start) * layouts[m.path].bytes_per_row
        for unit in units
        for m in unit.missing
    )
