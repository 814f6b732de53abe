"""`geocache build`: compute and store what a cache lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from geocache.cli._main import work_kept
from geocache.cli._options import (
    FLOATS,
    KEY_VALUE,
    SIZE,
    as_json,
    eval_split,
    options_of,
    set_option,
    store_option,
)

if TYPE_CHECKING:
    from geocache.cli._progress import Meter
    from geocache.data.objects import Address
    from geocache.data.views import ViewSet
    from geocache.pipeline.build import BuildReport, BuildRequest

_BAD_ROWS_SHOWN = 5

# What a recipe says itself, by parameter and as the user writes it.
_FIXED_BY_RECIPE = {
    "dataset": "--dataset",
    "split": "--split",
    "dataset_option": "--dataset-option",
    "teacher": "--teacher",
    "weights": "--weights",
    "target": "--target",
    "views": "--views",
    "view_policy": "--view-policy",
    "view_seed": "--view-seed",
    "mean": "--mean",
    "std": "--std",
    "size": "--size",
    "eval_dataset": "--eval-dataset",
    "eval_split": "--eval-split",
    "n_classes": "--n-classes",
    "teacher_option": "--teacher-option",
}

_OF_THE_TEACHER = {
    "overrides": "--set",
    "scheduler": "--scheduler",
    "limit": "--limit",
    "skip_bad": "--skip-bad",
}


@click.command("build")
@click.argument("recipe", required=False, type=click.Path(dir_okay=False))
@set_option
@click.option("--dataset", metavar="NAME[:DIR]", help="Data set; imagefolder:DIR is one split.")
@click.option("--split", metavar="NAME", help="Its split.  [default: train]")
@click.option("--dataset-option", type=KEY_VALUE, multiple=True, help="Option of the data set.")
@click.option("--teacher", metavar="MODEL", help="Registered name, torchvision:NAME, module:call.")
@click.option("--weights", metavar="FILE", help="Checkpoint of the teacher.")
@click.option(
    "--target",
    multiple=True,
    metavar="KIND[:K=V]@LAYER",
    help="What to store: logits, mst@layer2, affinity:radius=2,5@layer2; repeatable.",
)
@click.option("--views", type=click.IntRange(1), help="Augmented views of each image.")
@click.option(
    "--view-policy",
    metavar="NAME[:K=V,...]",
    help="Their policy: flip, crop_flip:pad=4.  [default: crop_flip with --views]",
)
@click.option("--view-seed", type=click.IntRange(0), help="Seed of their draws.  [default: 0]")
@click.option("--mean", type=FLOATS, help="The teacher's normalisation.  [default: ImageNet's]")
@click.option("--std", type=FLOATS, help="The same.")
@click.option("--size", type=SIZE, help="Resize and crop images to this; one number: square.")
@click.option("--eval-dataset", metavar="NAME[:DIR]", help="Evaluation split to keep a copy of.")
@click.option("--eval-split", metavar="NAME", help="Its split.  [default: test]")
@click.option("--n-classes", type=click.IntRange(1), help="The teacher's, if not the data set's.")
@click.option("--teacher-option", type=KEY_VALUE, multiple=True, help="Option of the teacher.")
@click.option("--cache", metavar="KEY|PATH", help="Derive targets in this cache; no teacher runs.")
@store_option
@click.option("--executor", type=click.Choice(["dask", "serial"]), help="[default: dask]")
@click.option("--workers", type=click.IntRange(1), help="Processes of Dask's local cluster.")
@click.option("--scheduler", metavar="ADDRESS", help="A running Dask cluster instead.")
@click.option("--device", metavar="auto|cpu|cuda", help="Where the teacher runs.  [default: auto]")
@click.option(
    "--batch-size", type=click.IntRange(1), help="Images a forward pass.  [default: 64, GPU 512]"
)
@click.option("--threads", type=click.IntRange(1), help="torch's threads in each process.")
@click.option("--limit", type=click.IntRange(1), metavar="ROWS", help="Only the first rows.")
@click.option("--images/--no-images", default=None, help="Store pixels.  [default: if small]")
@click.option("--skip-bad", is_flag=True, help="Leave unreadable images out instead of failing.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@as_json
def command(recipe: str | None, as_json: bool, **flags: Any) -> None:
    """Build the cache of a RECIPE.toml, or of --dataset, --teacher and --target.

    With --cache and --target, targets are added that follow from what that cache holds.

    What the cache holds already is not computed again. A recipe stores exactly the targets that its
    losses need.
    """
    _check_usage(recipe, flags)
    from geocache.cli._progress import Meter
    from geocache.pipeline.build import build

    with (
        Meter(quiet=as_json) as meter,
        work_kept("every committed row group is kept; the same command goes on from there."),
    ):
        if flags["cache"]:
            reports = [_derived(flags, meter)]
        else:
            reports = [build(request, meter) for request in _requests(recipe, flags)]
    _print(reports, as_json=as_json, dry_run=flags["dry_run"])
    if any(report.failures for report in reports):
        click.get_current_context().exit(1)


def _derived(flags: dict[str, Any], meter: Meter) -> BuildReport:
    from geocache.data.cache import open_cache
    from geocache.pipeline.derive import derive
    from geocache.targets import parse_target

    targets = dict.fromkeys(t for text in flags["target"] for t in parse_target(text))
    cache = open_cache(flags["cache"], flags["store"])
    return derive(cache, tuple(targets), dry_run=flags["dry_run"], progress=meter)


def _check_usage(recipe: str | None, flags: dict[str, Any]) -> None:
    if flags["cache"]:
        others = {**_FIXED_BY_RECIPE, **_OF_THE_TEACHER}
        given = [o for name, o in others.items() if flags[name] and name != "target"]
        if recipe is not None or given:
            raise click.UsageError(
                "--cache derives targets without a teacher; leave out "
                f"{', '.join(given) or recipe}."
            )
        if not flags["target"]:
            raise click.UsageError("Give at least one --target, as in --target attention@layer2.")
    elif recipe is not None:
        for name, option in _FIXED_BY_RECIPE.items():
            if flags[name] not in (None, ()):
                raise click.UsageError(
                    f"{option} cannot be mixed with a recipe, which says it itself. "
                    "Change the recipe, or use --set TABLE.KEY=VALUE."
                )
    else:
        if flags["overrides"]:
            raise click.UsageError("--set changes a recipe, and none is given.")
        for name, option in (("dataset", "--dataset"), ("teacher", "--teacher")):
            if flags[name] is None:
                raise click.UsageError(f"Give a RECIPE.toml, or {option}.")
        if not flags["target"]:
            raise click.UsageError("Give at least one --target, as in --target logits.")
    if flags["scheduler"] and (flags["workers"] or flags["executor"] == "serial"):
        raise click.UsageError("--scheduler cannot be mixed with --workers or --executor serial.")


def _requests(recipe: str | None, flags: dict[str, Any]) -> list[BuildRequest]:
    settings = {
        "store": flags["store"],
        "images": flags["images"],
        "limit": flags["limit"],
        "executor": flags["executor"],
        "n_workers": flags["workers"],
        "scheduler": flags["scheduler"],
        "device": flags["device"],
        "batch_size": flags["batch_size"],
        "n_threads": flags["threads"],
        "skip_bad": flags["skip_bad"],
        "dry_run": flags["dry_run"],
    }
    if recipe is not None:
        from geocache.cli._request import requests_of
        from geocache.student_train import load_recipe

        return list(requests_of(load_recipe(recipe, flags["overrides"]), **settings).values())
    return [_request_of_flags(flags, settings)]


def _request_of_flags(flags: dict[str, Any], settings: dict[str, Any]) -> BuildRequest:
    from geocache.data.datasets import open_dataset
    from geocache.data.images import ImageSpec
    from geocache.pipeline.build import BuildRequest
    from geocache.targets import parse_target

    options = options_of(flags["dataset_option"])
    targets = dict.fromkeys(t for text in flags["target"] for t in parse_target(text))
    evaluation = None
    if flags["eval_dataset"]:
        evaluation = open_dataset(
            flags["eval_dataset"],
            split=eval_split(flags["eval_dataset"], flags["eval_split"]),
            options=options,
        )
    size = flags["size"]
    given = {
        "weights": flags["weights"],
        "n_classes": flags["n_classes"],
        "mean": flags["mean"],
        "std": flags["std"],
        "evaluation": evaluation,
        "views": _views(flags),
        "image": size and ImageSpec((size[0], size[-1])),
        **settings,
    }
    return BuildRequest(
        dataset=open_dataset(flags["dataset"], split=flags["split"], options=options),
        model=flags["teacher"],
        options=options_of(flags["teacher_option"]),
        targets=tuple(targets),
        **{name: value for name, value in given.items() if value is not None},
    )


def _views(flags: dict[str, Any]) -> ViewSet:
    from geocache.data.views import ViewSet, build_policy

    default = "crop_flip" if flags["views"] else "identity"
    name, _, tail = (flags["view_policy"] or default).partition(":")
    options = options_of(tuple(KEY_VALUE.convert(p, None, None) for p in tail.split(",") if p))
    return ViewSet(build_policy(name, options), flags["view_seed"] or 0, flags["views"] or 1)


def _print(reports: list[BuildReport], *, as_json: bool, dry_run: bool) -> None:
    from geocache.cli._output import print_json

    documents = [_document(report, dry_run=dry_run) for report in reports]
    if as_json:
        print_json(documents if len(documents) > 1 else documents[0])
    for number, report in enumerate(reports):
        _complain(report)
        if not as_json:
            if number:
                click.echo()
            _print_one(documents[number], dry_run=dry_run)
            _print_bad(report.bad)


def _document(report: BuildReport, *, dry_run: bool) -> dict[str, Any]:
    per_row = {} if dry_run else _bytes_per_row(report.path)
    rate = report.rows_built / report.elapsed_s if report.elapsed_s else 0.0
    return {**vars(report), **per_row, "rows_per_s": rate}


def _complain(report: BuildReport) -> None:
    for failure in report.failures:
        reason = " ".join(failure.reason.split())
        click.echo(
            f"geocache: rows {failure.start} to {failure.stop - 1} were not built: {reason}",
            err=True,
        )


def _print_one(about: dict[str, Any], *, dry_run: bool) -> None:
    from geocache.cli._output import print_pairs, size_text

    pairs: dict[str, object] = {"key": about["key"], "path": about["path"]}
    if dry_run:
        pairs["rows"] = f"{about['n_asked']:,} of {about['n_rows']:,}"
        pairs["missing"] = f"{about['n_units']:,} units, {size_text(about['n_bytes_planned'])}"
    else:
        done = f"{about['rows_built']:,} built" if about["n_units"] else "nothing to do"
        pairs["rows"] = f"{about['n_asked']:,} of {about['n_rows']:,} asked for, {done}"
        targets, images = about["target_bytes_per_row"], about["image_bytes_per_row"]
        pairs["bytes a row"] = f"{targets:,.0f} targets, {images:,.0f} images"
        pairs["seconds"] = f"{about['elapsed_s']:.1f}"
        if about["rows_built"]:
            pairs["rows/s"] = f"{about['rows_per_s']:,.0f}"
    if about["n_units"]:
        ran = "runs" if dry_run else "ran"
        teacher = ", ".join(about["from_teacher"]) or "nothing"
        pairs["teacher"] = f"{ran} for {teacher}"
        if about["derived"]:
            pairs["derived"] = f"{', '.join(about['derived'])} (from what is stored)"
    print_pairs(pairs)


def _bytes_per_row(path: Address) -> dict[str, float]:
    from geocache.data.cache import Cache
    from geocache.data.summary import describe_cache

    about = describe_cache(Cache(path))
    return {name: about[name] for name in ("target_bytes_per_row", "image_bytes_per_row")}


def _print_bad(bad: Any) -> None:
    if bad:
        click.echo(f"{len(bad)} images were left out:", err=True)
    for row, reason in list(bad.items())[:_BAD_ROWS_SHOWN]:
        click.echo(f"  row {row}: {reason}", err=True)
    if len(bad) > _BAD_ROWS_SHOWN:
        click.echo("  ... `geocache show` counts them all.", err=True)
