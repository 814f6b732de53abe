"""What a repair may draw on, and whether it is enough: asked before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from geocache.data.cache import Cache, target_name
from geocache.data.dataset import ImageDataset
from geocache.data.documents import array_paths
from geocache.data.findings import ROWS_ARRAYS
from geocache.data.identity import data_digest
from geocache.errors import CacheError, DataError
from geocache.pipeline.measure import IMAGES, VALID
from geocache.pipeline.request import BuildRequest
from geocache.pipeline.told_receipts import ToldReceipts

__all__ = ["Means", "check_datasets", "check_origins", "given_datasets", "is_target"]


@dataclass(frozen=True)
class Means:
    """What a repair may draw on.

    root: how the cache was asked for, which a lost root document cannot say itself.
    """

    weights: str | None = None
    datasets: tuple[ImageDataset, ...] = ()
    root: BuildRequest | None = None


def given_datasets(
    cache: Cache, means: Means
) -> tuple[ImageDataset | None, dict[str, ImageDataset]]:
    """Return which of the given data sets is the cache's, and which its evaluation splits."""
    training, evaluations = None, {}
    paths = array_paths(key for key, _ in cache.objects.walk())
    splits = {path.split("/")[1] for path in paths if path.startswith("eval/")}
    for dataset in means.datasets:
        digest = data_digest(dataset.digests())
        if digest == cache.identity["data"]["samples"]:
            training = dataset
        elif digest[:16] in splits:
            evaluations[digest[:16]] = dataset
        else:
            raise DataError(
                f"data set {dataset.name}/{dataset.split} must hold the samples of cache "
                f"{cache.key[:12]}, got others. Give the one that it was built from."
            )
    return training, evaluations


def check_origins(cache: Cache, damaged: Sequence[str], told: ToldReceipts) -> None:
    """Refuse to compute what no teacher gives."""
    imported = [path for path in damaged if told.imported(path)]
    if imported or (
        cache.identity["teacher"]["model"].startswith("imported:")
        and any(is_target(path) and told.derived_from(path) is None for path in damaged)
    ):
        names = ", ".join(map(target_name, imported or filter(is_target, damaged)))
        raise CacheError(
            f"imported targets must be imported again when they are damaged, got {names} "
            f"(cache {cache.key[:12]}). Run `geocache rm` and `geocache import`."
        )


def check_datasets(
    cache: Cache,
    damaged: Sequence[str],
    told: ToldReceipts,
    means: Means,
    found: tuple[ImageDataset | None, Mapping[str, ImageDataset]],
) -> None:
    """Refuse when pixels, labels or rows are needed that no given data set has."""
    training, evaluations = found
    lacking = []
    for path in damaged:
        if path.startswith("eval/"):
            given = path.split("/")[1] in evaluations
        elif is_target(path):
            held = {IMAGES, VALID} <= set(array_paths(k for k, _ in cache.objects.walk()))
            derived = told.derived_from(path) is not None
            given = training is not None or held or derived
        else:
            given = training is not None
        if not given:
            lacking.append(path)
    if lacking:
        raise DataError(
            f"the data set must be given to restore {', '.join(lacking)}, got "
            f"{'another' if means.datasets else 'none'} (cache {cache.key[:12]}). "
            "Add --dataset NAME:DIR, once for each split that is damaged."
        )


def is_target(path: str) -> bool:
    """Return whether an array holds what a teacher says of the rows."""
    return path not in (*ROWS_ARRAYS, IMAGES, VALID) and not path.startswith("eval/")
