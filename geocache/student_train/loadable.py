"""What a loader may take from a cache, and every refusal before it reads a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geocache.data.views import CELL_ROWS, ViewSet
from geocache.errors import ConfigError, MissingTargetError, nearest
from geocache.student_train.placement import MODES
from geocache.student_train.source import Source
from geocache.targets import serving_name

__all__ = [
    "check_built",
    "check_cells",
    "check_options",
    "check_order",
    "check_views",
    "chosen_rows",
    "find_target",
    "usable_rows",
]


def usable_rows(source: Source, limit: int | None = None) -> NDArray[np.int64]:
    """Return the valid rows among the first `limit` (by default all)."""
    rows = np.flatnonzero(source.valid[: source.n_rows]).astype(np.int64)
    return rows if limit is None else rows[rows < limit]


def chosen_rows(
    source: Source, rows: Sequence[int] | NDArray[np.int64] | None, views: ViewSet
) -> NDArray[np.int64]:
    """Return the valid rows among `rows`, None standing for all.

    Raises ConfigError where there is none, and where views mix them with rows left out.
    """
    usable = usable_rows(source)
    wanted = usable if rows is None else np.intersect1d(usable, np.asarray(rows, np.int64))
    if len(wanted) == 0:
        raise ConfigError(f"rows must name valid rows of the cache, got none of {source.n_rows}.")
    check_cells(wanted, usable, views)
    return wanted


def find_target(cache: Source, name: str) -> str:
    """Return the name of the cached target that serves `name`: itself, or a longer k-NN list.

    Raises MissingTargetError when the cache holds neither.
    """
    known = cache.target_names()
    found = serving_name(name, known)
    if found is not None:
        return found
    raise MissingTargetError(
        f"cache must hold the target '{name}', got {', '.join(known) or 'no targets'} "
        f"({cache.key[:12]}).{nearest(name, known)} Build it with `geocache build`."
    )


def check_built(cache: Source, name: str, n_read: int, n_views: int) -> None:
    """Raise MissingTargetError unless rows [0, n_read) of `name` are there in `n_views` views."""
    n_built = cache.n_built(name, n_views)
    if n_built < n_read:
        of_views = f" in {n_views} views" if n_views > 1 else ""
        raise MissingTargetError(
            f"cache must hold '{name}' for all rows that are used, {n_read}{of_views}, got "
            f"{n_built} ({cache.key[:12]}). Let `geocache build` finish, or use the first "
            f"{n_built} rows (data.limit = {n_built}, rows=range({n_built}))."
        )


def check_cells(rows: NDArray[np.int64], usable: NDArray[np.int64], views: ViewSet) -> None:
    """Raise ConfigError where views mix rows with others that are usable but not among `rows`."""
    if views.mixing is None:
        return
    of_cells = usable[np.isin(usable // CELL_ROWS, rows // CELL_ROWS)]
    if len(of_cells) > len(rows):
        stranger = int(np.setdiff1d(of_cells, rows)[0])
        raise ConfigError(
            f"rows must be whole cells of {CELL_ROWS} rows with views by '{views.policy.name}', "
            f"which mix rows of a cell, got some of the cell of row {stranger} without that row. "
            f"Take multiples of {CELL_ROWS} rows from the front (limit), or all."
        )


def check_views(views: ViewSet, cache: Source, targets: Sequence[str], *, fresh: bool) -> None:
    """Raise ConfigError for views that the teacher has not seen, and for targets of fresh ones."""
    wanted, held = asdict(views.identity()), dict(cache.view_identity)
    if not fresh and wanted != held:
        raise ConfigError(
            f"views must be those that the teacher saw, got {wanted['policy']} "
            f"{wanted['parameters']} where the cache has {held['policy']} "
            f"{held['parameters']} ({cache.key[:12]}). Set [data] views alike and build."
        )
    if fresh and targets:
        raise ConfigError(
            f"fresh views must go without targets, which answer other pixels, got "
            f"{', '.join(targets)}. Leave fresh_views out."
        )


def check_order(order: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Raise ConfigError where the order of a state's epochs is another."""
    for name, value in order.items():
        if state[name] != value:
            raise ConfigError(
                f"loader's {name} must be that of its state to go on mid-epoch, got {value} "
                f"for {state[name]}. Make the loader alike, or begin the epoch again."
            )


def check_options(
    batch_size: int, mode: str, buffer_rows: int | None, workers: int, rank: int, world_size: int
) -> None:
    """Raise ConfigError for an option of a loader that is out of its range."""
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}.")
    if mode not in MODES:
        raise ConfigError(f"mode must be one of {', '.join(MODES)}, got '{mode}'.")
    if buffer_rows is not None and buffer_rows < 1:
        raise ConfigError(f"buffer_rows must be at least 1, got {buffer_rows}.")
    if workers < 0:
        raise ConfigError(f"workers must be at least 0, got {workers}.")
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank must be one of 0 to {world_size - 1}, got {rank}.")
    if batch_size < world_size:
        raise ConfigError(
            f"batch_size must give each of {world_size} ranks a row, got {batch_size}. It counts "
            "the rows of all ranks together."
        )
