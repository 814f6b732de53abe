"""Run a copy of a cache, show that it goes on, and print what was done."""

from __future__ import annotations

import time

import click

from geocache.cli._main import work_kept
from geocache.data.objects import Address

__all__ = ["run_copy"]


def run_copy(source: Address, store: Address, *, images: bool, as_json: bool) -> None:
    """Copy the cache at `source` into `store` and print the report."""
    from geocache.cli._output import print_json, print_pairs, size_text
    from geocache.cli._progress import Meter
    from geocache.data.transfer import copy_cache

    started = time.monotonic()
    with (
        Meter("row groups", quiet=as_json) as meter,
        work_kept("every row group that was copied is kept; the same command goes on from there."),
    ):
        report = copy_cache(source, store, images=images, progress=meter)
    elapsed_s = time.monotonic() - started
    if as_json:
        print_json({**vars(report), "elapsed_s": elapsed_s})
        return
    there = report.n_groups - report.n_copied
    print_pairs(
        {
            "key": report.key,
            "from": report.source,
            "to": report.destination,
            "row groups": f"{report.n_copied:,} copied, {there:,} were there",
            "size": size_text(report.n_bytes),
            "seconds": f"{elapsed_s:.1f}",
        }
    )
    if report.n_copied == 0 and there == 0:
        click.echo("The cache has no rows yet.")
