"""Run the units of a build on Dask: a cluster of this machine's cores, or one that exists.

Submissions are bounded by hand: at most two units a worker are under way, so a graph of a million
rows costs the scheduler nothing, and Ctrl-C leaves little behind. A unit that runs twice, as Dask
may decide, writes the same objects twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Int64

from geocache.errors import ConfigError
from geocache.pipeline.plan import Unit
from geocache.pipeline.work import BUSY_WAIT_S, Job, Outcome, run_unit
from geocache.process import keep_freed_memory

__all__ = ["run"]

_UNITS_PER_WORKER = 2
_RETRIES = 2


def run(
    job: Job,
    units: Sequence[Unit],
    order: Int64[np.ndarray, " n"],
    report: Callable[[Outcome], None],
    *,
    n_workers: int,
    scheduler: str | None = None,
) -> None:
    """Run every unit on workers and report outcomes as they come; stop at one that dooms the rest.

    order: the data set's index of each row. scheduler: the address of an existing cluster, whose
    workers must see the same folders; without one, `n_workers` processes are started here.

    Raises ConfigError when the scheduler cannot be reached.
    """
    with _client(n_workers, scheduler) as client:
        n_live = max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
        shared = client.scatter(job, broadcast=True, hash=False)
        waiting = list(reversed(units))
        n_lost = 0
        of_future: dict[str, Unit] = {}

        def submit(unit: Unit) -> Any:
            rows = order[unit.start : unit.stop]
            future = client.submit(_run_unit, shared, unit, rows, pure=False, retries=_RETRIES)
            of_future[future.key] = unit
            return future

        first = [waiting.pop() for _ in range(min(_UNITS_PER_WORKER * n_live, len(waiting)))]
        running = _distributed().as_completed([submit(unit) for unit in first], loop=client.loop)
        for future in running:
            unit = of_future.pop(future.key)
            outcome = _outcome(client, future, unit)
            if outcome is None:
                n_lost += 1
                if n_lost > _RETRIES * len(units):
                    outcome = Outcome(unit, error="its worker was lost, again and again")
                else:
                    if shared.status != "finished":
                        shared = client.scatter(job, broadcast=True, hash=False)
                    running.add(submit(unit))
                    continue
            if outcome.busy:
                if not waiting:
                    time.sleep(BUSY_WAIT_S)
                waiting.insert(0, unit)
                running.add(submit(waiting.pop()))
                continue
            report(outcome)
            if outcome.fatal:
                if client.status == "running":
                    client.cancel(list(running.futures))
                return
            if waiting:
                running.add(submit(waiting.pop()))


def _outcome(client: Any, future: Any, unit: Unit) -> Outcome | None:
    """Return what became of a unit, None where the job was lost with the workers that held it."""
    try:
        if future.status == "finished":
            finished: Outcome = future.result()
            return finished
        if not future.cancelled():
            return Outcome(unit, error=f"its worker was lost: {future.exception()!r}")
        if client.status == "running":
            return None
    except (OSError, CancelledError):  # The connection broke while we asked.
        pass
    reason = "the scheduler was lost. What was committed is safe; run the same command again."
    return Outcome(unit, error=reason, fatal=True)


def _run_unit(job: Job, unit: Unit, indices: Int64[np.ndarray, " rows"]) -> Outcome:
    """Do a unit in a worker's process, which is ours to tune."""
    keep_freed_memory()
    return run_unit(job, unit, indices)


@contextmanager
def _client(n_workers: int, scheduler: str | None) -> Iterator[Any]:
    distributed = _distributed()
    if scheduler is not None:
        try:
            client = distributed.Client(scheduler, timeout="20s", set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"--scheduler must be the address of a running Dask scheduler, got '{scheduler}' "
                f"({' '.join(str(error).split())[:200]}). Start one with `dask scheduler`."
            ) from None
        with client:
            yield client
        return
    with (
        distributed.LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            # Port 0: any free one. None would ask for 8787 and complain beside another builder.
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,
            memory_limit=0,
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


def _distributed() -> Any:
    """Import distributed when it is needed; it has no types."""
    import distributed

    return distributed
