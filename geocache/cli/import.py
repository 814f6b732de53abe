"""`geocache import`: take logits or maps that exist already for the targets of a cache."""

# ruff: noqa: N999 (a command's module is named as the command, and loaded by that name)
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
    store_option,
)

if TYPE_CHECKING:
    from geocache.pipeline.imports import ImportReport, ImportRequest

# What makes a cache of the array's own, by parameter and as the user writes it.
_OF_A_NEW_CACHE = {
    "split": "--split",
    "dataset_option": "--dataset-option",
    "size": "--size",
    "eval_dataset": "--eval-dataset",
    "eval_split": "--eval-split",
    "mean": "--mean",
    "std": "--std",
    "teacher": "--teacher",
    "images": "--images",
    "skip_bad": "--skip-bad",
}


@click.command("import")
@click.argument("file", type=click.Path())
@click.option(
    "--target",
    multiple=True,
    required=True,
    metavar="KIND[:K=V][@LAYER]",
    help="What to compute from the array: logits, mst@layer2; repeatable, for one layer.",
)
@click.option("--cache", metavar="KEY|PATH", help="Add the targets to this cache.")
@click.option("--dataset", metavar="NAME[:DIR]", help="Or make a cache of the array and this.")
@click.option("--split", metavar="NAME", help="Its split.  [default: train]")
@click.option("--dataset-option", type=KEY_VALUE, multiple=True, help="Option of the data set.")
@click.option("--size", type=SIZE, help="Resize and crop images to this; one number: square.")
@click.option("--eval-dataset", metavar="NAME[:DIR]", help="Evaluation split to keep a copy of.")
@click.option("--eval-split", metavar="NAME", help="Its split.  [default: test]")
@click.option("--mean", type=FLOATS, help="Normalisation of the student.  [default: ImageNet's]")
@click.option("--std", type=FLOATS, help="The same.")
@click.option("--teacher", metavar="NAME", help="What to call its teacher.  [default: FILE's stem]")
@click.option("--images/--no-images", default=None, help="Store pixels.  [default: if small]")
@click.option("--skip-bad", is_flag=True, help="Leave unreadable images out instead of failing.")
@click.option("--member", metavar="NAME", help="Which array of a .npz.  [default: the only one]")
@click.option(
    "--order",
    type=click.Choice(["dataset", "rows"]),
    help="Whose order the array's rows stand in: the data set's, the cache's.  [default: dataset]",
)
@click.option(
    "--labels",
    metavar="FILE|MEMBER",
    help="Class number of each row, to check the order by.  [default: member labels]",
)
@click.option(
    "--ids",
    metavar="FILE|MEMBER",
    help="SHA-256 of each row's sample, to place it by.  [default: member sample_id]",
)
@click.option("--unchecked", is_flag=True, help="Take the order for granted.")
@store_option
@as_json
def command(file: str, as_json: bool, **flags: Any) -> None:
    """Import the array in FILE (.npy or .npz) as targets of a cache.

    The array is what was tapped, a row a sample: (n, K) outputs for logits, (n, C, H, W) maps for
    the targets of a layer. Nothing is imported in an order that nothing shows: ids, labels, or
    logits that name the labels.
    """
    _check_usage(flags)
    from geocache.cli._progress import Meter
    from geocache.pipeline.imports import import_targets

    with (
        Meter(quiet=as_json) as meter,
        work_kept("every committed row group is kept; the same command goes on from there."),
    ):
        report = import_targets(_request(file, flags), meter)
    _print(report, as_json=as_json)


def _check_usage(flags: dict[str, Any]) -> None:
    if (flags["cache"] is None) == (flags["dataset"] is None):
        raise click.UsageError("Give --cache, or --dataset for a cache of the array's own.")
    if flags["cache"] is not None:
        for name, option in _OF_A_NEW_CACHE.items():
            if flags[name] not in ((None,) if name == "images" else (None, (), False)):
                raise click.UsageError(f"{option} goes with --dataset; a cache says it itself.")
    if flags["order"] is not None and flags["ids"] is not None:
        raise click.UsageError("--order and --ids cannot be mixed: ids give the order.")


def _request(file: str, flags: dict[str, Any]) -> ImportRequest:
    from geocache.data.datasets import open_dataset
    from geocache.data.images import ImageSpec
    from geocache.pipeline.array_file import open_array_file
    from geocache.pipeline.imports import ImportRequest
    from geocache.targets import parse_target

    targets = dict.fromkeys(t for text in flags["target"] for t in parse_target(text))
    given = open_array_file(file, member=flags["member"], labels=flags["labels"], ids=flags["ids"])
    options = options_of(flags["dataset_option"])
    dataset = evaluation = None
    if flags["dataset"]:
        dataset = open_dataset(flags["dataset"], split=flags["split"], options=options)
    if flags["eval_dataset"]:
        split = eval_split(flags["eval_dataset"], flags["eval_split"])
        evaluation = open_dataset(flags["eval_dataset"], split=split, options=options)
    size = flags["size"]
    settings = {
        "image": size and ImageSpec((size[0], size[-1])),
        **{
            name: flags[name]
            for name in ("cache", "teacher", "mean", "std", "store", "images", "skip_bad", "order")
        },
    }
    return ImportRequest(
        array=given.array,
        targets=tuple(targets),
        name=given.name,
        dataset=dataset,
        evaluation=evaluation,
        labels=given.labels,
        ids=given.ids,
        unchecked=flags["unchecked"],
        **{name: value for name, value in settings.items() if value is not None},
    )


_SHOWN_BY = {
    "ids": "its samples' digests",
    "labels": "labels that agree",
    "agreement": "agreement with the labels",
    "no": "nothing (--unchecked)",
}


def _print(report: ImportReport, *, as_json: bool) -> None:
    from geocache.cli._output import percent, print_json, print_pairs, size_text

    if as_json:
        print_json(report)
        return
    pairs: dict[str, object] = {"key": report.key, "path": report.path}
    for name in report.targets:
        done = f"{report.n_rows:,} rows" if name in report.imported else "nothing to do"
        pairs[name] = done
    pairs["order"] = f"{report.order}, shown by {_SHOWN_BY[report.checked]}"
    if report.agreement is not None:
        pairs["top-1"] = f"{percent(report.agreement)} of the labelled rows"
    pairs["written"] = size_text(report.n_bytes_written)
    pairs["seconds"] = f"{report.elapsed_s:.1f}"
    print_pairs(pairs)
    if report.bad:
        click.echo(f"{len(report.bad)} rows without a readable image hold zeros.", err=True)
