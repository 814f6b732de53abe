"""`geocache train`: train a recipe's student from its cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from geocache.cli._main import work_kept
from geocache.cli._options import as_json, set_option, store_option

if TYPE_CHECKING:
    from geocache.cli._progress import Meter
    from geocache.data.cache import Cache
    from geocache.student_train import Recipe, TrainResult


@click.command("train")
@click.argument("recipe", type=click.Path(dir_okay=False))
@click.option("--out", type=click.Path(file_okay=False), help="[default: runs/NAME-OF-RECIPE]")
@set_option
@click.option("--resume", is_flag=True, help="Continue the run in the folder.")
@click.option("--build", "build_first", is_flag=True, help="Build what the cache lacks first.")
@click.option("--compile", "compiled", is_flag=True, help="Compile the student: train.compile.")
@store_option
@click.option("--cache", metavar="KEY|PATH", help="Use this cache; the data set is not needed.")
@as_json
def command(
    recipe: str,
    out: str | None,
    overrides: tuple[str, ...],
    resume: bool,
    build_first: bool,
    compiled: bool,
    store: str | None,
    cache: str | None,
    as_json: bool,
) -> None:
    """Train the student of RECIPE.toml.

    The cache is found by what it is a cache of. A recipe without a teacher trains from the data set
    itself.
    """
    if build_first and cache:
        raise click.UsageError("--build finds the cache by itself; leave out --cache.")
    from geocache.cli._output import command_line
    from geocache.cli._progress import Meter, TrainingMeter
    from geocache.student_train import load_recipe, train
    from geocache.student_train.run_folder import refuse_overwriting

    overrides += ("train.compile=true",) if compiled else ()
    tables = load_recipe(recipe, overrides)
    folder = Path(out or Path("runs") / Path(recipe).stem)
    if not resume:
        refuse_overwriting(folder)
    again = command_line(
        "train", recipe, out=folder, set=overrides, store=store, cache=cache, resume=True
    )
    with Meter(quiet=as_json) as meter:
        sources = None
        if tables.teacher:
            sources = _caches(tables, recipe, overrides, build_first, store, cache, meter)
    with (
        Meter("steps", quiet=as_json) as meter,
        work_kept(f"{folder} keeps every whole epoch; `{again}` goes on from the last one."),
    ):
        result = train(tables, sources, folder, resume=resume, progress=TrainingMeter(meter))
    _print(result, as_json=as_json)


def _caches(
    recipe: Recipe,
    path: str,
    overrides: tuple[str, ...],
    build_first: bool,
    store: str | None,
    cache: str | None,
    meter: Meter,
) -> dict[str, Cache]:
    from geocache.cli._request import caches_of, requests_of
    from geocache.errors import DataError
    from geocache.pipeline.build import build

    if build_first:
        with work_kept("every committed row group is kept; the same command goes on from there."):
            reports = [
                build(request, meter) for request in requests_of(recipe, store=store).values()
            ]
        failures = [failure for report in reports for failure in report.failures]
        if failures:
            first = failures[0]
            raise DataError(
                f"cache must be whole before training, got {len(failures)} failed row groups, the "
                f"first at rows {first.start} to {first.stop - 1}: {first.reason}"
            )
    return caches_of(recipe, path, store=store, cache=cache, overrides=overrides)


def _print(result: TrainResult, *, as_json: bool) -> None:
    from geocache.cli._output import percent, print_json, print_pairs, print_table

    if as_json:
        print_json(result)
        return
    chosen = f"best by {result.select}"
    print_table(
        ("", "epoch", "validation", "test"),
        [
            (
                chosen,
                result.best_epoch,
                percent(result.validation_accuracy),
                percent(result.test_accuracy),
            ),
            ("last", result.n_epochs, "", percent(result.last_test_accuracy)),
        ],
    )
    print_pairs(
        {
            "step": f"{1000 * result.step_s:.1f} ms",
            "weights": f"{result.out / 'best.pt'}, {result.out / 'last.pt'}",
            "log": result.out / "metrics.jsonl",
            "curves": result.out / "curves.png",
        }
    )
    if result.select == "test":
        click.echo("The best epoch was chosen on the test split itself (train.select = 'test').")
