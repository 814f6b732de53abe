"""The log of a run: one JSON object a line, written line by line, read back even when cut short.

Three kinds of record, told apart by `event`: `start` (rows, terms with their sizes and weights),
`epoch` (losses, accuracies, rate) and `end` (the chosen epoch and its accuracies).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geocache.errors import DataError, StorageError

__all__ = ["append_record", "keep_epochs", "read_records"]

METRICS_FILE = "metrics.jsonl"


def append_record(out: Path, record: Mapping[str, Any]) -> None:
    """Append one record to the log of the run in `out`. Raises StorageError for a full disk."""
    try:
        with (out / METRICS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:
        raise StorageError(
            f"log must be written to '{out / METRICS_FILE}', but the disk refused: "
            f"{error.strerror}. Free space and run again with --resume."
        ) from None


def read_records(out: Path) -> list[dict[str, Any]]:
    """Return the records of the run in `out`; a last line cut off by a crash is left out.

    Raises DataError when there is no log.
    """
    path = out / METRICS_FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError:
        raise DataError(
            f"run must hold {METRICS_FILE}, got none ('{out}'). Name the folder that "
            "`geocache train` wrote."
        ) from None
    return [json.loads(line) for line in lines if line.endswith("\n")]


def keep_epochs(out: Path, n_epochs: int) -> None:
    """Drop the records after the first `n_epochs` epochs, which a resumed run writes again."""
    if not (out / METRICS_FILE).exists():
        return
    kept = [
        record
        for record in read_records(out)
        if record["event"] == "start"
        or (record["event"] == "epoch" and record["epoch"] <= n_epochs)
    ]
    temporary = out / f"{METRICS_FILE}.{os.getpid()}.tmp"
    temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
    temporary.replace(out / METRICS_FILE)
