"""What views give and cost on real images: a recipe trained with 1, 2, 4, 8 of them, and besides.

Beside the cached views stand the images as they are, the teacher in the loop (a new view every
epoch, answered afresh), and the mistake that caches invite: fresh views of the images with the
answers of the images as they were. All start from the same weights and see rows in the same order.
The caches must be there: `geocache build RECIPE` without views, and with `count = 8`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch

from benchmarks.online import TeacherInLoop
from geocache.cli._request import caches_of
from geocache.data.cache import Cache
from geocache.data.views import ViewSet
from geocache.models import build_model, load_weights
from geocache.student_train import ArraySource, Batch, Loader, Recipe, load_recipe, train
from geocache.student_train.devices import ONE
from geocache.student_train.epoch import one_epoch
from geocache.student_train.examine import Examiner
from geocache.student_train.optimise import Optimisation
from geocache.student_train.progress import Progress
from geocache.student_train.recipe import target_names
from geocache.student_train.setup import prepare, torch_settings
from geocache.student_train.terms import calibrate

CACHED = {"no views": 0, "V = 1": 1, "V = 2": 2, "V = 4": 4, "V = 8": 8}
FRESH = ("teacher in the loop", "stale answers")


class FreshViews(Loader):
    """Images in a view of their own every epoch; the answers come from somewhere else."""

    answers: TeacherInLoop | Loader

    @classmethod
    def of(cls, cache: Cache, like: Loader, views: ViewSet, answers: TeacherInLoop | Loader) -> Any:
        """Return a loader of the rows of `like`, in its order, in fresh views."""
        n = cache.n_rows
        source = ArraySource(
            images=cache.read("images", 0, n), labels=cache.labels, classes=cache.classes,
            views=views, mean=cache.mean, std=cache.std, valid=cache.valid,
        )  # fmt: skip
        made = cls(
            source, (), like.batch_size, like.seed, like.rows, views=views, fresh_views=True,
            mode="resident",
        )  # fmt: skip
        made.answers = answers
        return made

    def epoch(self, epoch: int, **options: Any) -> Generator[Batch, None, None]:
        """Yield the epoch's batches with the teacher's answers, or those of other pixels."""
        batches = super().epoch(epoch, **options)
        if isinstance(self.answers, TeacherInLoop):
            for batch in batches:
                yield dataclasses.replace(batch, targets=self.answers(batch.images))
        else:
            for batch, other in zip(batches, self.answers.epoch(epoch, **options), strict=True):
                assert torch.equal(batch.rows, other.rows), "orders are functions of the seed alone"
                yield dataclasses.replace(batch, targets=other.targets)


def with_views(recipe: Recipe, policy: str, count: int) -> Recipe:
    """Return the recipe with so many views; 0 stands for the images as they are."""
    table = type(recipe.data.views)
    views = table(policy=policy, count=count, options={"pad": 4}) if count else table()
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"views": views})})


def train_fresh(recipe: Recipe, cache: Cache, views: ViewSet, log: Path, *, stale: bool) -> None:
    """Train on fresh views, with the teacher in the loop or with stale answers; log each epoch."""
    table, teacher = recipe.train, recipe.teacher[0]
    with torch_settings(table), log.open("w", encoding="utf-8") as file:
        setup = prepare(recipe, cache)
        network = build_model(
            teacher.model or "", n_classes=len(cache.classes), input_shape=setup.loader.image_shape
        )
        load_weights(network, teacher.weights or "")
        answers = setup.loader if stale else TeacherInLoop(network, target_names(recipe))
        loader = FreshViews.of(cache, setup.loader, views, answers)
        setup = dataclasses.replace(setup, loader=loader)
        sizes = loader.batch_sizes(drop_single=True)
        optimisation = Optimisation(table, setup.student, setup.adapters, sizes=sizes, ranks=ONE)
        weights = calibrate(setup.terms, setup.student, loader, table=table).weights
        examiner = Examiner(setup)
        for epoch in range(table.epochs):
            record = one_epoch(
                table, setup, optimisation, weights,
                epoch=epoch, progress=Progress(),
            )  # fmt: skip
            record |= examiner.figures(weights, None)
            file.write(json.dumps(record) + "\n")
            file.flush()


def epochs_in(log: Path) -> list[dict[str, Any]]:
    """Return the records of the epochs that a log holds."""
    if not log.exists():
        return []
    records = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines())
    return [record for record in records if record["event"] == "epoch"]


def main() -> None:
    """Train what is not trained yet, and print a line a variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--out", type=Path, default=Path("runs/views"))
    parser.add_argument("--store")
    parser.add_argument("--set", action="append", default=[], help="change a key of the recipe")
    parser.add_argument("--only", nargs="*", default=[*CACHED, *FRESH])
    parser.add_argument("--policy", default="crop_flip")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, [*options.set, "train.select=test"])
    plain = with_views(recipe, options.policy, 0)
    many = with_views(recipe, options.policy, max(CACHED.values()))
    for name in options.only:
        folder = options.out / name.replace(" ", "")
        log = folder / "metrics.jsonl"
        if len(epochs_in(log)) < recipe.train.epochs:
            folder.mkdir(parents=True, exist_ok=True)
            if name in CACHED:
                wanted = with_views(recipe, options.policy, CACHED[name])
                train(wanted, cache_of(wanted, options), folder, resume=True)
            else:
                cache = cache_of(plain, options)
                train_fresh(plain, cache, many.data.views.build(), log, stale=name == FRESH[1])
        records = epochs_in(log)
        test = [100 * r["test_accuracy"] for r in records]
        step_ms = 1e3 * statistics.median(r["step_s"] for r in records)
        line = f"{name:<20}{test[-1]:>8.2f} %{max(test):>8.2f} % at {test.index(max(test)) + 1}"
        sys.stdout.write(f"{line}{step_ms:>10.1f} ms a step\n")
        sys.stdout.flush()


def cache_of(recipe: Recipe, options: argparse.Namespace) -> Cache:
    """Return the cache of the recipe's only teacher."""
    found = caches_of(recipe, options.recipe, store=options.store, cache=None, overrides=())
    (cache,) = found.values()
    return cache


if __name__ == "__main__":
    main()
