"""Run the units of a build one after another in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int64

from geocache.pipeline.plan import Unit
from geocache.pipeline.work import Job, Outcome, run_unit

__all__ = ["run"]


def run(
    job: Job,
    units: Sequence[Unit],
    order: Int64[np.ndarray, " n"],
    report: Callable[[Outcome], None],
) -> None:
    """Run every unit and report its outcome; stop after one that dooms the rest.

    order: the data set's index of each row.
    """
    for unit in units:
        outcome = run_unit(job, unit, order[unit.start : unit.stop])
        report(outcome)
        if outcome.fatal:
            return
