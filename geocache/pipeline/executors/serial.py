"""Run the units of a build one after another in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int64

from geocache.pipeline.plan import Unit
from geocache.pipeline.work import BUSY_WAIT_S, Job, Outcome, run_unit

__all__ = ["run"]


def run(
    job: Job,
    units: Sequence[Unit],
    order: Int64[np.ndarray, " n"],
    report: Callable[[Outcome], None],
) -> None:
    """Run every unit and report its outcome; stop after one that dooms the rest.

    order: the data set's index of each row. Units that another builder is at are asked for again
    after the others: then they are done, or free because their builder died.
    """
    waiting = list(units)
    while waiting:
        busy = []
        for unit in waiting:
            outcome = run_unit(job, unit, order[unit.start : unit.stop])
            if outcome.busy:
                busy.append(unit)
                continue
            report(outcome)
            if outcome.fatal:
                return
        if len(busy) == len(waiting):
            time.sleep(BUSY_WAIT_S)
        waiting = busy
