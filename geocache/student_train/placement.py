"""Resident or streamed: decided from the stored bytes and the memory there is, and said why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from geocache.data.views import ViewSet
from geocache.errors import ConfigError
from geocache.student_train.memory import Budget, in_units
from geocache.student_train.source import Source

__all__ = ["MODES", "Placement", "place"]

MODES = ("auto", "resident", "stream")
_WINDOW_BLOCKS = 8


@dataclass(frozen=True)
class Placement:
    """How a loader holds its rows: `mode` is `resident` or `stream`, `why` says it in words.

    `block_rows` are read together; `window_rows` are shuffled together.
    """

    mode: str
    why: str
    block_rows: int
    window_rows: int


def place(
    source: Source,
    held: Mapping[str, str],
    n_read: int,
    views: ViewSet,
    *,
    mode: str,
    buffer_rows: int | None,
    budget: Budget,
) -> Placement:
    """Choose how to hold rows [0, n_read) of the images and of the targets' arrays.

    A block is a row group of the images, whatever the targets: recipes that differ in their losses
    alone see the same order. Raises ConfigError where the buffer does not fit.
    """
    image_bytes = source.row_bytes("images")
    target_bytes = sum(source.row_bytes(name) for name in held.values())
    own_bytes = 0 if views.is_plain else _parameter_bytes(source)
    whole = n_read * (image_bytes + views.count * (target_bytes + own_bytes))
    block_rows = source.group_rows("images")
    window_rows = max(buffer_rows or _WINDOW_BLOCKS * block_rows, block_rows)
    shown = image_bytes * (1 if views.mixing is None else 2)
    in_use = 2 * min(window_rows, n_read) * (shown + target_bytes + own_bytes)
    room = f"{in_units(budget.resident)} of {budget.limit}"
    if mode == "resident" or (mode == "auto" and whole <= budget.resident):
        asked = "as asked" if mode == "resident" else f"fit {room}"
        why = f"resident: {n_read:,} rows, {in_units(whole)}, {asked}; exact shuffle"
        if budget.peers is not None:
            why += "; one copy for all ranks"
        return Placement("resident", why, block_rows, window_rows)
    if in_use > budget.own:
        fitting = int(budget.own // (2 * in_use / (2 * min(window_rows, n_read))))
        raise ConfigError(
            f"memory must hold the buffer of a streaming loader, {in_units(in_use)} for twice "
            f"{window_rows:,} rows, got {in_units(budget.own)} of {budget.limit}. Give more "
            f"memory, or a buffer_rows of at most {fitting:,} (at least {block_rows:,}, a row "
            "group of the images)."
        )
    reason = "as asked" if mode == "stream" else f"more than {room}"
    why = (
        f"stream: {n_read:,} rows, {in_units(whole)}, {reason}; blocks of {block_rows:,} rows, "
        f"shuffled in windows of {window_rows:,}, {in_units(in_use)} with the one read ahead"
    )
    return Placement("stream", why, block_rows, window_rows)


def _parameter_bytes(source: Source) -> int:
    """Return the bytes of one view's parameters of one image."""
    return int(source.view_parameters(0, 1).nbytes)
