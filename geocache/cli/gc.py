"""`geocache gc`: let go of caches that nobody uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from geocache.cli._options import BYTES, SECONDS, as_json, store_option

if TYPE_CHECKING:
    from geocache.data.collect import Collection


@click.command("gc")
@store_option
@click.option(
    "--older-than", type=SECONDS, metavar="AGE", help="Unused for so long.  [default: 90d]"
)
@click.option("--max-size", type=BYTES, metavar="SIZE", help="As much may stay, such as 50GB.")
@click.option("--delete", is_flag=True, help="Do it; without, only say what would be done.")
@as_json
def command(
    store: str | None,
    older_than: float | None,
    max_size: float | None,
    delete: bool,
    as_json: bool,
) -> None:
    """Remove caches that were not used for long, and what interrupted builds left behind.

    Pinned caches, those that somebody writes and those used in the last hour stay. With --max-size
    the least recently used go until the rest fits.
    """
    from geocache.cli._output import print_json
    from geocache.data.catalog import store_root
    from geocache.data.collect import Rules, collect
    from geocache.data.removal import local_folder

    root = local_folder(store_root(store), "gc")
    rules = Rules(
        **({} if older_than is None else {"older_than_s": older_than}),
        max_bytes=None if max_size is None else int(max_size),
    )
    found = collect(root, rules, delete=delete)
    if as_json:
        print_json(_document(found))
    else:
        _print(found, rules.max_bytes)


def _document(found: Collection) -> dict[str, Any]:
    from datetime import UTC, datetime

    return {
        "deleted": found.deleted,
        "n_bytes": found.n_bytes,
        "n_bytes_kept": found.n_bytes_kept,
        "caches": [
            {
                "key": verdict.cache.key,
                "name": verdict.cache.name,
                "path": verdict.cache.path,
                "n_bytes": verdict.cache.n_bytes,
                "last_used": datetime.fromtimestamp(verdict.cache.used_s, UTC).isoformat(),
                "remove": verdict.remove,
                "why": verdict.why,
            }
            for verdict in found.verdicts
        ],
        "leftovers": found.leftovers,
        "trash": found.trash,
    }


def _print(found: Collection, max_bytes: int | None) -> None:
    from geocache.cli._output import print_table, size_text

    done, to_do = ("removed", "Freed") if found.deleted else ("would go", "Would free")
    rows = [
        (
            verdict.cache.key[:12],
            verdict.cache.name or "-",
            size_text(verdict.cache.n_bytes),
            done if verdict.remove else "stays",
            verdict.why,
        )
        for verdict in found.verdicts
    ]
    if rows:
        print_table(("key", "name", "size", "verdict", "why"), rows)
    if found.leftovers:
        n_bytes = sum(leftover.n_bytes for leftover in found.leftovers)
        click.echo(
            f"{len(found.leftovers)} leftovers of interrupted builds {done} ({size_text(n_bytes)})."
        )
    if found.trash:
        click.echo(f"{len(found.trash)} removals that were cut off: the rest {done}.")
    hint = "" if found.deleted or not found.n_bytes else " `geocache gc --delete` does it."
    click.echo(f"{to_do} {size_text(found.n_bytes)}, {size_text(found.n_bytes_kept)} stay.{hint}")
    if max_bytes is not None and found.n_bytes_kept > max_bytes:
        click.echo(f"That is still more than {size_text(max_bytes)}: the rest is pinned or in use.")
