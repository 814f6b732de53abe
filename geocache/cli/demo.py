"""`geocache demo`: see the whole path work in a minute."""

from __future__ import annotations

from pathlib import Path

import click

from geocache.cli._main import work_kept
from geocache.cli._options import as_json


@click.command("demo")
@click.option("--out", type=click.Path(file_okay=False), default="demo", show_default=True)
@as_json
def command(out: str, as_json: bool) -> None:
    """Train a teacher and students on scikit-learn's digits; no network, under two minutes."""
    from geocache.cli._output import percent, print_json, print_table
    from geocache.cli._progress import Meter, TrainingMeter
    from geocache.demo import SETTING, run_demo

    if not as_json:
        click.echo(
            "Digits at {size} x {size} pixels. Teacher: a residual network of depth {depth}, "
            "trained on all\n1,437 rows. Student: SimpleCNN, {epochs} epochs on {rows} of these "
            "rows, {seeds} seeds; the same initial\nweights and batches with and without the "
            "cache. Accuracy: 360 test images, last epoch.".format(**SETTING)
        )
    with (
        Meter("steps", quiet=as_json) as training,
        work_kept("nothing is left to continue; run `geocache demo` again."),
    ):
        result = run_demo(
            Path(out),
            watch_training=lambda label: TrainingMeter(training, label=label, brief=True),
            watch_build=lambda phase, done, total: training(f"cache, {phase}", done, total, "rows"),
        )
    if as_json:
        print_json(result)
        return
    bare = result.students[0]
    rows: list[tuple[object, ...]] = [("teacher", percent(result.teacher_accuracy), "", "", "")]
    for student in result.students:
        spread = f"{100 * min(student.accuracies):.1f} to {100 * max(student.accuracies):.1f}"
        per_row = f"{result.target_bytes_per_row:,.0f}" if student is not bare else ""
        step = f"{1000 * student.step_s:.1f} ms"
        rows.append((student.method, percent(student.accuracy), spread, step, per_row))
    click.echo()
    print_table(("", "test accuracy", "of the seeds", "step", "cached bytes a row"), rows)
    click.echo(f"\nCurves of the first seed: {result.picture}\nThe cache: {result.cache}")
