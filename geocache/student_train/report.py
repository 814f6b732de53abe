"""Draw what runs did: loss and accuracy of each epoch, one or several runs in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from geocache.errors import ConfigError
from geocache.student_train.metrics import read_records

__all__ = ["plot_runs"]


def plot_runs(
    runs: Sequence[str | Path], path: str | Path, *, labels: Sequence[str] | None = None
) -> Path:
    """Draw the training curves of the runs' folders to the picture `path`, and return it.

    Left: the mean training loss of each epoch (for several runs the cross-entropy term, the one
    they share); right: accuracy in percent on training rows, validation rows and the evaluation
    split, as far as measured. `labels` name the runs, by default their folders. Raises ConfigError
    when there is no run or no epoch to draw, DataError for a folder without a log.
    """
    if not runs:
        raise ConfigError("report must be of at least one run, got none.")
    names = [Path(run).name for run in runs] if labels is None else list(labels)
    histories = [[r for r in read_records(Path(run)) if r["event"] == "epoch"] for run in runs]
    for run, history in zip(runs, histories, strict=True):
        if not history:
            raise ConfigError(f"run must have a whole epoch to draw, got none ('{run}').")
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    several = len(runs) > 1
    shared = several and all("cross_entropy" in h[0]["terms"] for h in histories)
    for number, (name, history) in enumerate(zip(names, histories, strict=True)):
        epochs = [r["epoch"] for r in history]
        losses = [r["terms"]["cross_entropy"] if shared else r["loss"] for r in history]
        left.plot(epochs, losses, color=f"C{number}", label=name)
        _accuracies(right, history, number=number, name=name if several else "")
    left.set(xlabel="epoch", ylabel="cross-entropy (training)" if shared else "training loss")
    right.set(xlabel="epoch", ylabel="accuracy, %")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    if several:
        left.legend()
    if right.get_legend_handles_labels()[0]:  # without labels there is no accuracy
        right.legend()
    figure.savefig(path, dpi=120)
    return Path(path)


def _accuracies(axes: Any, history: list[dict[str, Any]], *, number: int, name: str) -> None:
    # Several runs share one curve each, the evaluation split's; one run shows all three.
    splits: tuple[str, ...] = ("train", "validation", "test")
    if name:
        measured = [s for s in ("test", "validation", "train") if f"{s}_accuracy" in history[-1]]
        splits = tuple(measured[:1])
    for offset, split in enumerate(splits):
        key = f"{split}_accuracy"
        points = [(r["epoch"], 100 * r[key]) for r in history if key in r]
        if points:
            color = f"C{number if name else offset}"
            label = f"{name} ({split})" if name else split
            axes.plot(*zip(*points, strict=True), color=color, label=label, marker=".")
