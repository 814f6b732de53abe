"""`geocache eval`: accuracy of a trained student, or of any checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geocache.cli._options import (
    FLOATS,
    KEY_VALUE,
    SIZE,
    as_json,
    eval_split,
    options_of,
    store_option,
)

if TYPE_CHECKING:
    from geocache.data.cache import Cache
    from geocache.student_train import Evaluation

_OF_A_CHECKPOINT = ("model", "weights", "dataset")


@click.command("eval")
@click.argument("run", required=False, type=click.Path(file_okay=False))
@click.option("--which", type=click.Choice(["best", "last"]), default="best", show_default=True)
@click.option("--cache", metavar="KEY|PATH", help="Take the evaluation images from this cache.")
@store_option
@click.option("--model", metavar="MODEL", help="Evaluate this model instead of a run.")
@click.option("--weights", metavar="FILE", help="Its checkpoint.")
@click.option("--dataset", metavar="NAME[:DIR]", help="Data set; imagefolder:DIR is one split.")
@click.option("--split", metavar="NAME", help="Its split.  [default: test]")
@click.option("--mean", type=FLOATS, help="Its normalisation.  [default: ImageNet's]")
@click.option("--std", type=FLOATS, help="The same.")
@click.option("--size", type=SIZE, help="Resize and crop images to this; one number: square.")
@click.option("--n-classes", type=click.IntRange(1), help="The model's, if not the data set's.")
@click.option("--model-option", type=KEY_VALUE, multiple=True, help="Option of the model.")
@click.option("--dataset-option", type=KEY_VALUE, multiple=True, help="Option of the data set.")
@click.option("--device", default="auto", show_default=True)
@click.option("--classwise", is_flag=True, help="Print the accuracy of each class.")
@click.option("--confusion", metavar="FILE", help="Write the confusion matrix as CSV.")
@as_json
def command(
    run: str | None, as_json: bool, classwise: bool, confusion: str | None, **flags: Any
) -> None:
    """Measure the student of a RUN folder on its evaluation split.

    Or measure any checkpoint: --model, --weights and --dataset.
    """
    given = [name for name in _OF_A_CHECKPOINT if flags[name]]
    if run is not None and given:
        raise click.UsageError(f"--{given[0]} cannot be mixed with a RUN, which says it itself.")
    if run is None and len(given) < len(_OF_A_CHECKPOINT):
        raise click.UsageError("Give a RUN folder, or --model, --weights and --dataset.")
    from geocache.student_train.measure import write_confusion

    found, classes = _of_checkpoint(flags) if run is None else _of_run(run, flags)
    if confusion is not None:
        write_confusion(Path(confusion), found, classes)
    _print(found, classes, as_json=as_json, classwise=classwise)


def _print(found: Evaluation, classes: tuple[str, ...], *, as_json: bool, classwise: bool) -> None:
    from geocache.cli._output import percent, print_json, print_pairs, print_table

    if as_json:
        print_json({**vars(found), "classes": classes})
        return
    top5 = {} if found.top5_accuracy is None else {"top-5": percent(found.top5_accuracy)}
    print_pairs(
        {
            "accuracy": percent(found.accuracy),
            **top5,
            "cross-entropy": f"{found.loss:.4f}",
            "images": f"{found.n_rows:,}",
        }
    )
    if classwise:
        rows = zip(classes, found.class_accuracy, map(sum, found.confusion), strict=True)
        print_table(
            ("class", "accuracy", "images"), [(name, percent(part), n) for name, part, n in rows]
        )


def _of_run(run: str, flags: dict[str, Any]) -> tuple[Evaluation, tuple[str, ...]]:
    from geocache.student_train import evaluate_run, load_student
    from geocache.student_train.setup import choose_device

    device = choose_device(flags["device"])
    _, state = load_student(run, flags["which"])
    source = _cache_of_run(state["cache"], flags)
    found = evaluate_run(run, source, which=flags["which"], device=device)
    return found, tuple(state["classes"])


def _cache_of_run(key: str, flags: dict[str, Any]) -> Cache | None:
    """Return the cache to take images from; a run's own may have gone, the data set then serves."""
    from geocache.data.cache import open_cache
    from geocache.errors import CacheError

    if flags["cache"]:
        return open_cache(flags["cache"], flags["store"])
    try:
        # With several teachers the student's pixels stand in the first one's cache.
        return open_cache(key.partition("+")[0], flags["store"])
    except CacheError:
        return None


def _of_checkpoint(flags: dict[str, Any]) -> tuple[Evaluation, tuple[str, ...]]:
    from geocache.data.datasets import open_dataset
    from geocache.data.images import ImageSpec
    from geocache.errors import DataError
    from geocache.models import build_model, load_weights
    from geocache.student_train import evaluate
    from geocache.student_train.recipe import IMAGENET_MEAN, IMAGENET_STD
    from geocache.student_train.setup import choose_device
    from geocache.student_train.source import read_images

    dataset = open_dataset(
        flags["dataset"],
        split=eval_split(flags["dataset"], flags["split"]),
        options=options_of(flags["dataset_option"]),
    )
    size = flags["size"]
    spec = ImageSpec((size[0], size[-1]) if size else None)
    images, bad = read_images(dataset, spec, threads=2)
    if bad:
        reason = next(iter(bad.values()))
        raise DataError(
            f"evaluation images must be readable, got {len(bad)} that are not: {reason}"
        )
    height, width, channels = images.shape[1:]
    model = build_model(
        flags["model"],
        n_classes=flags["n_classes"] or len(dataset.classes),
        input_shape=(channels, height, width),
        options=options_of(flags["model_option"]),
    )
    load_weights(model, flags["weights"])
    n_classes = flags["n_classes"] or len(dataset.classes)
    found = evaluate(
        model,
        images,
        dataset.labels,
        mean=flags["mean"] or IMAGENET_MEAN,
        std=flags["std"] or IMAGENET_STD,
        device=choose_device(flags["device"]),
    )
    more = map(str, range(len(dataset.classes), n_classes))
    return found, (*dataset.classes, *more)[:n_classes]
