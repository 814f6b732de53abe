"""`geocache layers`: the layers of a model that can be tapped."""

from __future__ import annotations

from typing import Any

import click

from geocache.cli._options import INPUT_SHAPE, KEY_VALUE, as_json, options_of


@click.command("layers")
@click.argument("model")
@click.option("--input", "shape", type=INPUT_SHAPE, default="3,32,32", show_default=True)
@click.option("--n-classes", type=click.IntRange(1), default=10, show_default=True)
@click.option("--model-option", type=KEY_VALUE, multiple=True, help="Option of the model.")
@as_json
def command(
    model: str,
    shape: tuple[int, int, int],
    n_classes: int,
    model_option: tuple[tuple[str, Any], ...],
    as_json: bool,
) -> None:
    """List the layers of a MODEL that targets and losses can name.

    N is the number of local features of a layer, C their length; bytes are those of an image's raw
    float32 output.
    """
    from geocache.cli._output import print_json, print_table
    from geocache.models import build_model, list_layers

    network = build_model(
        model, n_classes=n_classes, input_shape=shape, options=options_of(model_option)
    )
    layers = list_layers(network, shape)
    if as_json:
        print_json(layers)
        return
    print_table(
        ("layer", "kind", "shape", "N", "C", "bytes a row"),
        [
            (
                layer.path,
                layer.kind,
                " x ".join(map(str, layer.shape)),
                layer.n,
                layer.channels,
                f"{layer.row_bytes:,}",
            )
            for layer in layers
        ],
    )
