"""`geocache push`: copy a cache into a bucket or another folder."""

from __future__ import annotations

import click

from geocache.cli._options import as_json, store_option


@click.command("push")
@click.argument("cache")
@click.argument("destination", metavar="s3://BUCKET/PREFIX|DIR")
@click.option(
    "--no-images",
    is_flag=True,
    help="Leave out the pixels, also the evaluation split's: who trains from the copy needs the "
    "data set (`geocache train --build` puts them in again).",
)
@store_option
@as_json
def command(
    cache: str, destination: str, no_images: bool, store: str | None, as_json: bool
) -> None:
    """Copy a CACHE, given by the first letters of its key or by its path, into another store.

    Every object is checked on the way, and the copy becomes visible when it is whole. The same
    command goes on with a copy that was cut off. Credentials come from the environment:
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, and AWS_ENDPOINT_URL for other servers than Amazon's.
    """
    from geocache.cli._transfer import run_copy
    from geocache.data.catalog import find_cache, store_root

    source = find_cache(cache, store)
    run_copy(source, store_root(destination), images=not no_images, as_json=as_json)
