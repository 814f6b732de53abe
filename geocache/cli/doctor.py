"""`geocache doctor`: look over the environment, the store and its caches."""

from __future__ import annotations

import click

from geocache.cli._options import as_json, store_option


@click.command("doctor")
@store_option
@as_json
def command(store: str | None, as_json: bool) -> None:
    """Look over the environment, the store and its caches; say what to do about each finding.

    The exit code is 1 if there is a problem; warnings leave it at 0.
    """
    from geocache.cli._output import print_findings, print_json
    from geocache.data.catalog import store_root
    from geocache.data.doctor import check_caches, check_digests, check_store
    from geocache.data.environment import check_environment
    from geocache.data.removal import local_folder

    root = local_folder(store_root(store), "doctor")
    found = [*check_environment(), *check_store(root), *check_caches(root), *check_digests()]
    if as_json:
        print_json(found)
    else:
        print_findings(found)
    if any(finding.state == "problem" for finding in found):
        click.get_current_context().exit(1)
