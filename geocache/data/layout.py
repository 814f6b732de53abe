"""The shape of a cache, as pure functions: which arrays, which row groups, which names.

A row group is the unit that is written and committed. Its size is a function of the bytes of a row
alone, so that every builder cuts an array alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "FORMAT_VERSION",
    "SMALL_UNIT_ROWS",
    "UNIT_ROWS",
    "ArrayLayout",
    "Group",
    "array_path",
    "chunk_rows",
    "group_rows",
    "target_name",
]

FORMAT_VERSION = 1
UNIT_ROWS = 2048
"""Rows of one task: a power of two, and the largest row group."""
SMALL_UNIT_ROWS = 2**20
"""Rows of a unit of the arrays that are written at once: labels and the like."""
_GROUP_BYTES = 64 * 2**20
_CHUNK_BYTES = 2**20


def array_path(name: str) -> str:
    """Return where the array of a target stands: `logits`, `targets/layer2/mst`.

    The user's own stand there too when they belong to no layer: `targets/module~Class`.
    """
    return f"targets/{name}" if "/" in name or "~" in name else name


def target_name(path: str) -> str:
    """Return the name of the target whose array stands at `path`."""
    return path.removeprefix("targets/")


def group_rows(bytes_per_row: int, unit_rows: int = UNIT_ROWS) -> int:
    """Return the rows of a row group: those of a unit, halved until it holds at most 64 MiB."""
    rows = unit_rows
    while rows > 1 and rows * bytes_per_row > _GROUP_BYTES:
        rows //= 2
    return rows


def chunk_rows(bytes_per_row: int, unit_rows: int = UNIT_ROWS) -> int:
    """Return the rows of a chunk: the group when that is at most 4 MiB, else about 1 MiB."""
    rows = group_rows(bytes_per_row, unit_rows)
    if rows * bytes_per_row <= 4 * _CHUNK_BYTES:
        return rows
    while rows > 1 and rows * bytes_per_row > _CHUNK_BYTES:
        rows //= 2
    return rows


@dataclass(frozen=True)
class Group:
    """Rows [start, stop) of one view of an array."""

    view: int
    index: int
    start: int
    stop: int


@dataclass(frozen=True)
class ArrayLayout:
    """One array of a cache: where it stands, how a row is stored, how it is cut into groups.

    With `n_views` the array has a leading view axis. Arrays of a few bytes a row that are written
    at once have larger units, so that they do not become thousands of files.
    """

    path: str
    dtype: str
    n_rows: int
    row_shape: tuple[int, ...]
    row_axes: tuple[str, ...]
    bytes_per_row: int
    n_views: int | None = None
    packed: bool = False
    unit_rows: int = UNIT_ROWS
    attributes: Mapping[str, Any] = field(default_factory=dict)
    sizes: tuple[int, int] | None = field(default=None, compare=False)
    """Rows of a row group and of a chunk where the array says so itself; else from `unit_rows`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        views = () if self.n_views is None else (self.n_views,)
        return (*views, self.n_rows, *self.row_shape)

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of its axes."""
        return (*(() if self.n_views is None else ("view",)), "row", *self.row_axes)

    @property
    def group_rows(self) -> int:
        """Rows of a row group."""
        return self.sizes[0] if self.sizes else group_rows(self.bytes_per_row, self.unit_rows)

    @property
    def chunk_rows(self) -> int:
        """Rows of a chunk."""
        return self.sizes[1] if self.sizes else chunk_rows(self.bytes_per_row, self.unit_rows)

    def groups(self, stop: int | None = None) -> list[Group]:
        """Return the row groups that cover rows [0, stop) of every view; the last may be short."""
        stop = self.n_rows if stop is None else min(stop, self.n_rows)
        size = self.group_rows
        return [
            Group(view, index, start, min(start + size, stop))
            for view in range(self.n_views or 1)
            for index, start in enumerate(range(0, stop, size))
        ]

    def object_key(self, group: Group) -> str:
        """Return the key of the object that holds a group."""
        where = () if self.n_views is None else (group.view,)
        index = (*where, group.index, *(0 for _ in self.row_shape))
        return f"{self.path}/c/{'/'.join(map(str, index))}"

    @property
    def receipts(self) -> str:
        """The folder of its receipts."""
        return f"meta/receipts/{self.path}"

    def receipt_key(self, group: Group) -> str:
        """Return the key of a group's receipt; its name says the rows, so a list tells all."""
        name = f"v{group.view}-g{group.index:06d}-r{group.stop - group.start:06d}.json"
        return f"{self.receipts}/{name}"

    def announcement_key(self, group: Group) -> str:
        """Return the key of what announces that a group's object is about to be replaced."""
        return f"{self.receipts}/v{group.view}-g{group.index:06d}.next"
