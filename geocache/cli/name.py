"""`geocache name`: names, notes and pins of caches."""

from __future__ import annotations

import click

from geocache.cli._options import as_json, store_option


@click.command("name")
@click.argument("cache", required=False)
@click.argument("name", required=False)
@click.option("--note", metavar="TEXT", help="One line about it; an empty one takes it away.")
@click.option("--pin/--unpin", default=None, help="Keep it from `geocache gc` and `rm`.")
@click.option("--remove", is_flag=True, help="Take the name away.")
@store_option
@as_json
def command(
    cache: str | None,
    name: str | None,
    note: str | None,
    pin: bool | None,
    remove: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """Give a CACHE a NAME, a note or a pin; without them, show what it has.

    The name then stands for the cache everywhere. Without CACHE, all names of the store are shown.
    """
    if remove and name is not None:
        raise click.UsageError("give a NAME or --remove, not both.")
    from geocache.cli._output import label_text, print_json, print_table
    from geocache.data.catalog import entry_at, find_cache, label_cache, list_caches, store_root
    from geocache.data.labels import Label, read_label
    from geocache.data.objects import open_objects

    if cache is None:
        entries = list_caches(store_root(store))
    else:
        path = find_cache(cache, store)
        label = read_label(open_objects(path))
        if remove or any(given is not None for given in (name, note, pin)):
            new = Label(
                name=None if remove else name or label.name,
                note=label.note if note is None else note,
                pinned=label.pinned if pin is None else pin,
            )
            label_cache(path, new)
        entries = [entry_at(path)]
    found = [
        {"key": e.key, "path": str(e.path), **vars(read_label(open_objects(e.path)))}
        for e in entries
    ]
    if as_json:
        print_json(found)
    elif not found:
        click.echo(f"No caches in {store_root(store)}.")
    else:
        rows = [(about["key"][:12], label_text(about) or "-") for about in found]
        print_table(("key", "name"), rows)
