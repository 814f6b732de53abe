"""The log of a run in every form that is wanted: JSON lines, a CSV table, TensorBoard events.

The JSON lines are the log itself (`metrics`); the other two are written from the same records.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geocache.errors import ConfigError, StorageError
from geocache.student_train.metrics import append_record, read_records
from geocache.student_train.train_table import TrainTable

__all__ = ["CSV_FILE", "RunLog", "check_tensorboard", "flat"]

CSV_FILE = "metrics.csv"


def check_tensorboard(table: TrainTable) -> None:
    """Raise ConfigError when TensorBoard events are asked for and it is not installed."""
    if not table.tensorboard:
        return
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            "train.tensorboard must have TensorBoard installed, which is not. "
            "Run `pip install 'geocache[tensorboard]'`."
        )


def flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers of a record; those inside a table get its name: `terms/cross_entropy`."""
    found: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[prefix + name] = value
    return found


class RunLog:
    """Takes a run's records; use it as a context.

    `last_epoch` is the last whole one when the run was taken up; `writes` is false for the
    processes of a training that leave the log to another.
    """

    def __init__(
        self, out: Path, table: TrainTable, *, last_epoch: int = 0, writes: bool = True
    ) -> None:
        self._out, self._writes = out, writes
        self._events: Any = None
        if writes and table.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            # What was written of later epochs before a crash is purged by the reader.
            self._events = SummaryWriter(str(out / "tensorboard"), purge_step=last_epoch + 1)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._events is not None:
            self._events.close()

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record. Raises StorageError for a full disk."""
        if not self._writes:
            return
        append_record(self._out, record)
        if record["event"] != "epoch":
            return
        write_csv(self._out)
        if self._events is not None:
            for name, value in flat(record).items():
                if name != "epoch":
                    self._events.add_scalar(name, value, record["epoch"])
            self._events.flush()


def write_csv(out: Path) -> None:
    """Write the epochs of the run's log as a table: a line an epoch, a column a number."""
    rows = [flat(record) for record in read_records(out) if record["event"] == "epoch"]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    lines = csv.DictWriter(text, columns, lineterminator="\n")
    lines.writeheader()
    lines.writerows(rows)
    temporary = out / f"{CSV_FILE}.{os.getpid()}.tmp"
    try:
        temporary.write_text(text.getvalue(), encoding="utf-8")
        temporary.replace(out / CSV_FILE)
    except OSError as error:
        raise StorageError(
            f"log must be written to '{out / CSV_FILE}', but the disk refused: {error.strerror}. "
            "Free space and run again with --resume."
        ) from None
