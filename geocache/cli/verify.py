"""`geocache verify`: hold every byte of a cache against what vouches for it, and put it right."""

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
    from geocache.data.dataset import ImageDataset
    from geocache.pipeline.request import BuildRequest
    from geocache.pipeline.verify import VerifyReport

_OF_THE_ROOT = {
    "teacher_option": "--teacher-option",
    "mean": "--mean",
    "std": "--std",
    "size": "--size",
    "n_classes": "--n-classes",
}


@click.command("verify")
@click.argument("cache")
@click.option("--quick", is_flag=True, help="Only that every object exists and has its size.")
@click.option("--deep", is_flag=True, help="Decode all rows, too; the teacher computes some again.")
@click.option("--repair", is_flag=True, help="Put right what is damaged, and verify again.")
@click.option("--weights", metavar="FILE", help="Checkpoint of the cache's teacher.")
@click.option(
    "--dataset", multiple=True, metavar="NAME[:DIR]", help="Data set to repair from; repeatable."
)
@click.option("--split", metavar="NAME", help="Its split.  [default: train]")
@click.option("--dataset-option", type=KEY_VALUE, multiple=True, help="Option of the data set.")
@click.option("--eval-dataset", metavar="NAME[:DIR]", help="Evaluation split to repair from.")
@click.option("--eval-split", metavar="NAME", help="Its split.  [default: test]")
@click.option("--teacher", metavar="MODEL", help="For a lost zarr.json: the teacher's model.")
@click.option("--teacher-option", type=KEY_VALUE, multiple=True, help="The same: its option.")
@click.option("--mean", type=FLOATS, help="The same: its normalisation.  [default: ImageNet's]")
@click.option("--std", type=FLOATS, help="The same.")
@click.option("--size", type=SIZE, help="The same: what images were resized to.")
@click.option("--n-classes", type=click.IntRange(1), help="The same: if not the data set's.")
@store_option
@as_json
def command(cache: str, as_json: bool, **flags: Any) -> None:
    """Verify a CACHE, given by the first letters of its key or by its path.

    By default every byte is read and held against its checksums. Exit code 1 when damage is found
    and not repaired. Leftovers of builds and unknown files are listed and are no damage.
    """
    _check_usage(flags)
    from geocache.cli._output import print_json
    from geocache.cli._progress import Meter
    from geocache.pipeline.verify import verify

    with (
        Meter(quiet=as_json) as meter,
        work_kept("what is repaired is kept; the same command goes on from there."),
    ):
        datasets = _datasets(flags)
        report = verify(
            cache,
            flags["store"],
            depth="quick" if flags["quick"] else "deep" if flags["deep"] else "full",
            repair=flags["repair"],
            weights=flags["weights"],
            datasets=datasets,
            root=_root(flags, datasets),
            progress=meter,
        )
    if as_json:
        print_json({**vars(report), "ok": not report.damage})
    else:
        _print(report)
    if report.damage:
        click.get_current_context().exit(1)


def _check_usage(flags: dict[str, Any]) -> None:
    if flags["quick"] and flags["deep"]:
        raise click.UsageError("--quick and --deep cannot be mixed.")
    for name in ("dataset", "eval_dataset", "teacher"):
        if flags[name] and not flags["repair"]:
            raise click.UsageError(f"--{name.replace('_', '-')} goes with --repair.")
    if flags["weights"] and not (flags["deep"] or flags["repair"]):
        raise click.UsageError("--weights goes with --deep or --repair.")
    if flags["teacher"]:
        if not flags["dataset"]:
            raise click.UsageError("--teacher restores zarr.json together with --dataset.")
        return
    for name, option in _OF_THE_ROOT.items():
        if flags[name] not in (None, ()):
            raise click.UsageError(f"{option} goes with --teacher; a sound cache says it itself.")


def _datasets(flags: dict[str, Any]) -> list[ImageDataset]:
    from geocache.data.datasets import open_dataset

    options = options_of(flags["dataset_option"])
    found = [open_dataset(spec, split=flags["split"], options=options) for spec in flags["dataset"]]
    if flags["eval_dataset"]:
        split = eval_split(flags["eval_dataset"], flags["eval_split"])
        found.append(open_dataset(flags["eval_dataset"], split=split, options=options))
    return found


def _root(flags: dict[str, Any], datasets: list[ImageDataset]) -> BuildRequest | None:
    if not flags["teacher"]:
        return None
    from geocache.data.images import ImageSpec
    from geocache.pipeline.request import BuildRequest

    size = flags["size"]
    given = {
        "weights": flags["weights"],
        "n_classes": flags["n_classes"],
        "mean": flags["mean"],
        "std": flags["std"],
        "image": size and ImageSpec((size[0], size[-1])),
    }
    return BuildRequest(
        dataset=datasets[0],
        model=flags["teacher"],
        options=options_of(flags["teacher_option"]),
        targets=(),
        **{name: value for name, value in given.items() if value is not None},
    )


def _print(report: VerifyReport) -> None:
    from geocache.cli._output import print_table, size_text

    rows = [(finding, "repaired") for finding in report.repaired]
    rows += [(finding, finding.repair) for finding in report.findings]
    if rows:
        print_table(
            ("object", "rows", "finding", "repair"),
            [
                (f.key, f"{f.rows[0]} to {f.rows[1] - 1}" if f.rows else "", f.what, repair)
                for f, repair in rows
            ],
        )
        click.echo()
    for compared in report.compared:
        click.echo(f"{compared.target}: {compared.n_rows:,} rows computed again, by {compared.by}")
    if report.left_out is not None:
        click.echo(f"The teacher did not run: {report.left_out}")
    others = len(report.findings) - len(report.damage)
    parts = [
        f"{report.n_objects:,} objects, {size_text(report.n_bytes)} read",
        f"{len(report.damage)} damaged",
        *([f"{len(report.repaired)} repaired"] if report.repaired else []),
        *([f"{others} leftovers or unknown files"] if others else []),
    ]
    click.echo(f"{', '.join(parts)}; {report.elapsed_s:.1f} s.")
