"""`geocache ls`: the caches of a store."""

from __future__ import annotations

import click

from geocache.cli._options import as_json, store_option


@click.command("ls")
@store_option
@as_json
def command(store: str | None, as_json: bool) -> None:
    """List the caches of the store."""
    from geocache.cli._output import label_text, print_json, print_table, size_text
    from geocache.data.cache import Cache
    from geocache.data.catalog import list_caches, store_root
    from geocache.data.summary import describe_cache
    from geocache.errors import CacheError

    root = store_root(store)
    found = []
    for entry in list_caches(root):
        try:
            found.append(describe_cache(Cache(entry.path)))
        except CacheError as error:
            click.echo(f"geocache: {entry.path} is passed over: {error}", err=True)
    if as_json:
        print_json([{name: c[name] for name in c if name != "arrays"} for c in found])
        return
    if not found:
        click.echo(f"No caches in {root}.")
        return
    click.echo(f"{root}:")
    print_table(
        ("key", "name", "teacher", "rows", "size", "targets"),
        [
            (
                about["key"][:12],
                label_text(about) or "-",
                about["teacher"]["model"],
                f"{about['n_rows']:,}",
                size_text(about["n_bytes"]),
                " ".join(about["targets"]),
            )
            for about in found
        ],
    )
