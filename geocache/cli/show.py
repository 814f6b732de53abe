"""`geocache show`: what one cache holds."""

from __future__ import annotations

import click

from geocache.cli._options import as_json, store_option


@click.command("show")
@click.argument("cache")
@store_option
@as_json
def command(cache: str, store: str | None, as_json: bool) -> None:
    """Show a CACHE, given by its name, the first letters of its key or its path."""
    from geocache.cli._output import label_text, print_json, print_pairs, print_table, size_text
    from geocache.data.cache import Cache
    from geocache.data.catalog import find_cache
    from geocache.data.summary import describe_cache

    about = describe_cache(Cache(find_cache(cache, store)))
    if as_json:
        print_json(about)
        return
    teacher = about["teacher"]
    height, width, channels = about["image_shape"]
    print_pairs(
        {
            "key": about["key"],
            "name": label_text(about) or "none",
            "path": about["path"],
            "teacher": " ".join(
                [teacher["model"], *(f"{k}={v}" for k, v in teacher["options"].items())]
            ),
            "weights": teacher["weights"],
            "mean, std": f"{teacher['mean']}, {teacher['std']}",
            "images": f"{channels} x {height} x {width}",
            "rows": f"{about['n_rows']:,}, of which {about['n_valid']:,} can be used",
            "classes": f"{len(about['classes'])}: {', '.join(about['classes'][:12])}",
            "evaluation": ", ".join(about["eval_splits"]) or "none",
            "size": size_text(about["n_bytes"]),
        }
    )
    click.echo()
    print_table(
        ("array", "type", "shape", "rows built", "bytes a row"),
        [
            (
                array["name"],
                array["dtype"],
                " x ".join(map(str, array["shape"])),
                f"{array['n_built']:,}",
                f"{array['bytes_per_row']:,.1f}",
            )
            for array in about["arrays"]
        ],
    )
