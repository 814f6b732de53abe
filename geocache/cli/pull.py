"""`geocache pull`: copy a cache from a bucket or another folder into the store."""

from __future__ import annotations

import click

from geocache.cli._options import as_json, store_option


@click.command("pull")
@click.argument("cache")
@click.option(
    "--from", "origin", metavar="s3://BUCKET/PREFIX|DIR", help="Store that holds the cache."
)
@store_option
@as_json
def command(cache: str, origin: str | None, store: str | None, as_json: bool) -> None:
    """Copy a CACHE into the store.

    CACHE is its address (s3://BUCKET/PREFIX/KEY.zarr, or a folder), or the first letters of its key
    with --from. Every object is checked, also those that an earlier try has copied, and the cache
    becomes visible when it is whole. Credentials come from the environment, as for `push`.
    """
    from geocache.cli._transfer import run_copy
    from geocache.data.catalog import find_cache, is_cache, store_root

    if origin is None and not is_cache(cache):
        raise click.UsageError(
            f"'{cache}' is no cache's address. Give s3://BUCKET/PREFIX/KEY.zarr, or --from."
        )
    source = find_cache(cache, store_root(origin) if origin else None)
    run_copy(source, store_root(store), images=True, as_json=as_json)
