"""From a recipe to a build request and to the cache that its losses read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from geocache.cli._output import command_line
from geocache.data.cache import Cache, open_cache
from geocache.data.catalog import list_caches, store_root
from geocache.data.datasets import open_dataset
from geocache.data.images import ImageSpec
from geocache.data.objects import open_objects
from geocache.errors import CacheError, ConfigError, MissingDataError, MissingTargetError
from geocache.models import build_model, load_weights, state_digest
from geocache.pipeline.build import BuildRequest, build
from geocache.student_train import Recipe, required_targets
from geocache.student_train.recipe import TeacherTable
from geocache.targets import target_from_name

__all__ = ["caches_of", "requests_of"]


def requests_of(recipe: Recipe, **settings: Any) -> dict[str, BuildRequest]:
    """Return what to build for each teacher of a recipe, by name.

    That is exactly the targets of its losses, and for the first teacher the images. `settings` are
    further fields of BuildRequest; None leaves the recipe's or the default. Raises ConfigError for
    a recipe without a teacher, MissingDataError for absent data.
    """
    if not recipe.teacher:
        raise ConfigError(
            "recipe must have a [teacher] to build a cache from, got none. Its student trains from "
            "the data set itself: `geocache train`."
        )
    requests = {
        teacher.name: _request_of(recipe, teacher, settings)
        for teacher in recipe.teacher
        if teacher.model is not None
    }
    if not requests:
        raise ConfigError(
            "[teacher] must have a model to build a cache with, got only cache = "
            f"'{recipe.teacher[0].cache}'. Its targets are imported (`geocache import`): train "
            "without building."
        )
    return requests


def _request_of(recipe: Recipe, teacher: TeacherTable, settings: Mapping[str, Any]) -> BuildRequest:
    data = recipe.data
    evaluation = None
    if data.eval_split is not None:
        evaluation = open_dataset(
            data.dataset, root=data.root, split=data.eval_split, options=data.options
        )
    fields: dict[str, Any] = {
        "dataset": open_dataset(
            data.dataset, root=data.root, split=data.split, options=data.options
        ),
        "model": teacher.model,
        "weights": teacher.weights,
        "options": teacher.options,
        "n_classes": teacher.n_classes,
        "mean": teacher.mean,
        "std": teacher.std,
        "targets": tuple(target_from_name(name) for name in required_targets(recipe)[teacher.name]),
        "image": ImageSpec(data.image_size()),
        "evaluation": evaluation,
        "views": data.views.build(),
        "limit": data.limit,
        # The student reads its pixels from the (first) cache, however large they are.
        "images": True if teacher is recipe.teacher[0] else None,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    return BuildRequest(**{**fields, **given})


def caches_of(
    recipe: Recipe, recipe_path: str, *, store: str | None, cache: str | None, overrides: Any
) -> dict[str, Cache]:
    """Return the cache of each teacher that a recipe's losses read, by the teacher's name, whole.

    Each is found by its identity. `cache` (or `cache` in [teacher]) names it instead; where the
    data set is absent, the only cache in the store whose teacher fits is taken. Raises CacheError
    or MissingTargetError, with the command that builds what is missing; ConfigError for one
    `cache` and several teachers.
    """
    if cache is not None and len(recipe.teacher) > 1:
        raise ConfigError(
            f"--cache names one cache, and the recipe has {len(recipe.teacher)} teachers. Write "
            "cache = 'KEY' into each [[teacher]] instead."
        )
    command = command_line("build", recipe_path, set=overrides, store=store)
    remedy = f"Run `{command}`, or train with --build."
    return {
        teacher.name: _cache_of(recipe, teacher, store, cache or teacher.cache, remedy)
        for teacher in recipe.teacher
    }


def _cache_of(
    recipe: Recipe, teacher: TeacherTable, store: str | None, named: str | None, remedy: str
) -> Cache:
    if named is not None:
        return open_cache(named, store)
    try:
        report = build(_request_of(recipe, teacher, {"store": store, "dry_run": True}))
    except MissingDataError as error:
        return _only_fitting(teacher, store, error)
    if not report.n_units:
        return open_cache(str(report.path))
    if not open_objects(report.path).exists("zarr.json"):
        raise CacheError(
            f"cache of teacher '{teacher.name}' and this data must be built before training, got "
            f"none (key {report.key[:12]} in {store_root(store)}). {remedy}"
        )
    found = Cache(report.path)
    images = ("images",) if teacher is recipe.teacher[0] else ()
    n_views = recipe.data.views.count
    wanted = (*images, *required_targets(recipe)[teacher.name])
    missing = [name for name in wanted if found.n_built(name, n_views) < report.n_asked]
    raise MissingTargetError(
        f"cache {report.key[:12]} must hold {', '.join(wanted)} for {report.n_asked:,} rows, but "
        f"{', '.join(missing) or 'some rows'} {'is' if len(missing) == 1 else 'are'} missing or "
        f"incomplete. {remedy}"
    )


def _only_fitting(teacher: TeacherTable, store: str | None, reason: MissingDataError) -> Cache:
    """Return the only cache in the store that this teacher made."""
    entries = list_caches(store_root(store))
    fitting = [c for c in (Cache(entry.path) for entry in entries) if _fits(teacher, c)]
    if len(fitting) == 1:
        return open_cache(str(fitting[0].path))
    found = ", ".join(c.key[:12] for c in fitting) or "none"
    raise MissingDataError(
        f"{str(reason).rstrip('.')}. Without the data set the cache must be named, or be the only "
        f"one of teacher '{teacher.model}' in {store_root(store)}, got {found}. Give --cache KEY."
    )


def _fits(teacher: TeacherTable, cache: Cache) -> bool:
    if teacher.model is None:
        return False
    made: Mapping[str, Any] = cache.identity["teacher"]
    same = (made["model"], made["options"], tuple(made["mean"]), tuple(made["std"]))
    if same != (teacher.model, teacher.options, teacher.mean, teacher.std):
        return False
    if teacher.weights is None:
        return True
    height, width, channels = cache.image_shape
    model = build_model(
        teacher.model,
        n_classes=made["n_classes"],
        input_shape=(channels, height, width),
        options=teacher.options,
    )
    load_weights(model, teacher.weights)
    return state_digest(model) == str(made["weights"])
