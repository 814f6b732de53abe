"""`geocache rm`: remove one cache."""

from __future__ import annotations

import sys

import click

from geocache.cli._options import store_option


@click.command("rm")
@click.argument("cache")
@click.option("--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")
@store_option
def command(cache: str, yes: bool, store: str | None) -> None:
    """Remove a CACHE, given by its name, the first letters of its key or its path.

    A pinned cache and one that somebody writes are refused.
    """
    from geocache.cli._output import label_text, size_text
    from geocache.data.catalog import entry_at, find_cache
    from geocache.data.collect import look
    from geocache.data.removal import local_folder, remove_cache
    from geocache.errors import CacheError

    path = local_folder(find_cache(cache, store), "rm")
    held = look(path, entry_at(path).key)
    name = label_text({"name": held.name, "pinned": held.pinned, "note": ""})
    if held.pinned:
        raise CacheError(
            f"cache {held.key[:12]} must not be pinned to be removed, got '{name}' ({path}). "
            f"`geocache name {held.key[:12]} --unpin` comes first."
        )
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("rm asks before it removes; give --yes where nobody can answer.")
        what = " ".join(part for part in (held.key[:12], name) if part)
        click.confirm(f"Remove cache {what} ({size_text(held.n_bytes)}) in {path}?", abort=True)
    n_bytes, why = remove_cache(path, held.key)
    if why is not None:
        raise CacheError(
            f"cache {held.key[:12]} must be left alone to be removed, but {why} ({path}). Wait for "
            "the builder to end, then run the same command again."
        )
    click.echo(f"Removed cache {held.key[:12]}: {size_text(n_bytes)} freed.")
