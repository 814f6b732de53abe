"""What every test stands on: shapes are checked, the user's folders are left alone, few threads."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook, jaxtyped
from shape_checker import check

# Before anything of geocache is imported: the hook rewrites modules as they are loaded. Modules
# with compiled kernels are left out, since numba must see the functions as they were written.
install_import_hook(
    [
        "geocache.data",
        "geocache.geometry.affinity",
        "geocache.geometry.channels",
        "geocache.geometry.distances",
        "geocache.geometry.features",
        "geocache.geometry.grids",
        "geocache.geometry.manifold",
        "geocache.geometry.masks",
        "geocache.geometry.normalise",
        "geocache.geometry.pattern",
        "geocache.models",
        "geocache.pipeline",
        "geocache.student_train",
        "geocache.targets",
    ],
    "shape_checker.check",
)

import geocache.geometry  # noqa: E402
import geocache.geometry.knn  # noqa: E402
import geocache.geometry.mst  # noqa: E402

for module, name in (("knn", "nearest_neighbours"), ("mst", "minimum_spanning_tree")):
    where = sys.modules[f"geocache.geometry.{module}"]
    checked = jaxtyped(typechecker=check)(getattr(where, name))
    setattr(where, name, checked)
    setattr(geocache.geometry, name, checked)

import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

from geocache.data.cache import Cache  # noqa: E402
from geocache.data.datasets import open_dataset  # noqa: E402
from geocache.pipeline import BuildRequest, build  # noqa: E402
from geocache.targets import parse_target  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent / "reference"))
pytest_plugins = ["s3_server"]

# The same examples in every run, and no clock: tests share their machine.
settings.register_profile("geocache", deadline=None, derandomize=True, database=None)
settings.load_profile("geocache")

SMALL_CACHE_TARGETS = (
    "logits",
    "mst@layer1",
    "affinity:radius=2,5@layer1",
    "knn:k=8@layer1",
    "affinity:k=8@layer1",
    "mask:radius=2@layer1",
    "mst@layer2",
    "affinity:radius=2@layer2",
    "activation@layer3",
    "pooled@layer3",
)


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Point GEOCACHE_STORE and GEOCACHE_HOME to temporary folders; return their parent."""
    folder = tmp_path_factory.mktemp("user")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOCACHE_STORE", str(folder / "store"))
        patch.setenv("GEOCACHE_HOME", str(folder / "home"))
        yield folder


@pytest.fixture(autouse=True)
def few_threads() -> Iterator[None]:
    """Give every test one thread of torch: on a busy machine several wait for each other."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """A whole cache of the 1,437 training digits (8 x 8) under a fresh ResNet-20; do not write.

    It holds SMALL_CACHE_TARGETS, the images and the test digits as evaluation split.
    """
    request = BuildRequest(
        dataset=open_dataset("digits", split="train"),
        evaluation=open_dataset("digits", split="test"),
        model="resnet20",
        targets=tuple(t for text in SMALL_CACHE_TARGETS for t in parse_target(text)),
        store=tmp_path_factory.mktemp("small_cache"),
        executor="serial",
        n_threads=1,
    )
    report = build(request)
    assert not report.failures
    return Cache(report.path)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with CIFAR-10's `train/`, `test/` and the checkpoints' `weights/`."""
    place = os.environ.get("GEOCACHE_REAL_DATA")
    if place is None:
        pytest.skip("GEOCACHE_REAL_DATA names no folder with train/, test/ and weights/")
    return Path(place)
