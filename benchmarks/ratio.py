"""Time one thing against another in turn and report the median ratio next to its bar."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Ratio", "arguments", "compare", "report"]


@dataclass(frozen=True)
class Ratio:
    """A measured ratio; `bar` is the bound that it should meet, from above or below."""

    name: str
    ratio: float
    bar: float | None
    at_least: bool
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether the bar is met; a ratio without a bar is for comparison and always is."""
        if self.bar is None:
            return True
        return self.ratio >= self.bar if self.at_least else self.ratio <= self.bar


def seconds(work: Callable[[], object]) -> float:
    """Return how long one call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare(
    work: Callable[[], object], against: Callable[[], object], rounds: int
) -> tuple[float, float, float]:
    """Return the median of work / against over rounds in turn, and both median seconds."""
    work(), against()
    ours, theirs = [], []
    for _ in range(rounds):
        theirs.append(seconds(against))
        ours.append(seconds(work))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return statistics.median(ratios), statistics.median(ours), statistics.median(theirs)


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser with the option that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser


def report(ratios: list[Ratio], as_json: bool) -> None:
    """Print the ratios as a table, or as JSON lines."""
    for r in ratios:
        if as_json:
            line = json.dumps({"name": r.name, "ratio": r.ratio, "bar": r.bar, "ok": r.ok})
        else:
            sign = ">=" if r.at_least else "<="
            bar = f"{sign} {r.bar:g}" if r.bar is not None else "-"
            verdict = "" if r.bar is None else "ok" if r.ok else "MISSED"
            line = f"{r.name:<48}{r.ratio:>10.3f}  {bar:<9}{verdict:<8}{r.detail}"
        sys.stdout.write(line + "\n")
