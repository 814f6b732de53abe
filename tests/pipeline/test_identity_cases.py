"""What is the same cache and what is another, case by case; and teachers that have none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from worlds import contents, opened, parse

from geocache.data.cache import Cache
from geocache.data.datasets import open_dataset
from geocache.data.identity import cache_key
from geocache.errors import ConfigError
from geocache.models import build_model
from geocache.pipeline.build import BuildReport

Make = Callable[..., BuildReport]


def weights_file(path: Path, wrap: Callable[[dict[str, torch.Tensor]], Any], seed: int = 7) -> str:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model("tiny_world:teacher", n_classes=3, input_shape=(3, 8, 8))
    torch.save(wrap(model.state_dict()), path)
    return str(path)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"model": {f"_orig_mod.{n}": t for n, t in reversed(state.items())}},
        lambda state: {n: t.to(memory_format=torch.channels_last) if t.ndim == 4 else t
                       for n, t in state.items()},
    ],
    ids=["another file", "nested", "DataParallel", "compiled", "another memory layout"],
)  # fmt: skip
def test_the_same_weights_in_another_file_are_the_same_cache(
    make: Make, tmp_path: Path, wrap: Callable[[dict[str, torch.Tensor]], Any]
) -> None:
    first = make(weights=weights_file(tmp_path / "first.pt", lambda state: state))
    before = contents(first)
    second = make(weights=weights_file(tmp_path / "second.pth", wrap))
    assert (second.key, second.n_units) == (first.key, 0)
    assert contents(second) == before


def test_other_weights_are_another_cache(make: Make, tmp_path: Path) -> None:
    files = [weights_file(tmp_path / f"{seed}.pt", dict, seed) for seed in (1, 2)]
    keys = {make(weights=file, dry_run=True).key for file in files}
    assert len(keys) == 2


@pytest.mark.parametrize(
    "change", [{"mean": (0.485, 0.456, 0.407)}, {"std": (0.229, 0.224, 0.226)}], ids=str
)
def test_another_normalisation_is_another_cache(make: Make, change: dict[str, Any]) -> None:
    first, second = make(), make(**change)
    assert second.key != first.key
    assert second.rows_built == 300
    # Never a silent hit: the numbers are others, too.
    logits = [opened(report).read("logits", 0, 300) for report in (first, second)]
    assert not np.array_equal(*logits)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images in two classes."""
    rng = np.random.default_rng(0)
    for number in range(12):
        path = tmp_path / "data" / ("ant", "bee")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return tmp_path / "data"


def build_folder(make: Make, folder: Path) -> BuildReport:
    return make(dataset=open_dataset(f"imagefolder:{folder}"), targets=parse("logits"), n_classes=3)


def test_one_changed_image_is_another_cache(make: Make, folder: Path) -> None:
    first = build_folder(make, folder)
    image = np.array(Image.open(folder / "ant" / "4.png"))
    image[3, 3, 0] ^= 1
    Image.fromarray(image).save(folder / "ant" / "4.png")
    second = build_folder(make, folder)
    assert second.key != first.key
    assert second.rows_built == 12


def test_a_copied_image_is_another_cache(make: Make, folder: Path) -> None:
    first = build_folder(make, folder)
    shutil.copy(folder / "ant" / "4.png", folder / "ant" / "again.png")
    second = build_folder(make, folder)
    assert second.key != first.key
    assert second.n_rows == 13


def test_a_renamed_and_moved_folder_is_the_same_cache(make: Make, folder: Path) -> None:
    first = build_folder(make, folder)
    before = contents(first)
    moved = folder.rename(folder.parent / "elsewhere")
    (moved / "ant" / "0.png").rename(moved / "ant" / "last.png")
    (moved / "bee" / "11.png").rename(moved / "bee" / "00.png")
    second = build_folder(make, moved)
    assert (second.key, second.n_units, second.rows_built) == (first.key, 0, 0)
    changed = {name for name, data in contents(second).items() if data != before.get(name)}
    assert changed == {
        "dataset_index/c/0", "meta/receipts/dataset_index/v0-g000000-r000012.json",
    }  # fmt: skip


def test_a_relabelled_image_updates_the_labels_and_keeps_the_targets(
    make: Make, folder: Path
) -> None:
    first = build_folder(make, folder)
    before = contents(first)
    (folder / "ant" / "4.png").rename(folder / "bee" / "4.png")
    dataset = open_dataset(f"imagefolder:{folder}")
    second = build_folder(make, folder)
    assert (second.key, second.n_units) == (first.key, 0)
    cache = opened(second)
    assert np.array_equal(cache.labels, dataset.labels[cache.dataset_index])
    assert (cache.labels == 1).sum() == 7
    changed = {name for name, data in contents(second).items() if data != before.get(name)}
    assert all("labels" in name or "dataset_index" in name for name in changed)


def test_renamed_classes_are_corrected_in_the_cache(make: Make, folder: Path) -> None:
    first = build_folder(make, folder)
    before, identity = contents(first), Cache(first.path).identity
    (folder / "ant").rename(folder / "armadillo")
    second = build_folder(make, folder)
    cache = opened(second)
    assert (second.key, second.n_units) == (first.key, 0)
    assert cache.classes == ("armadillo", "bee")
    assert cache.identity == identity
    assert cache.key == cache_key(identity)
    changed = {name for name, data in contents(second).items() if data != before.get(name)}
    assert changed == {"zarr.json"}
    # Back again, byte for byte.
    (folder / "armadillo").rename(folder / "ant")
    assert contents(build_folder(make, folder)) == before


def test_a_part_that_stays_in_training_mode_is_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"teacher 'users_teachers:KeepsTraining' must be in evaluation mode.*'stage' "
        r"\(Sequential\) in training mode\. Let its train\(\)",
    ):
        make(model="users_teachers:KeepsTraining", targets=parse("logits"))
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("model", "what"),
    [
        ("BatchStatistics", "depends on the other images of the batch"),
        ("Ranks", "depends on the other images of the batch"),
        ("ForcedDropout", "changes from run to run"),
    ],
)
def test_a_teacher_that_is_no_function_of_the_image_is_refused(
    make: Make, tmp_path: Path, model: str, what: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make(model=f"users_teachers:{model}", targets=parse("logits"))
    message = str(caught.value)
    assert f"teacher 'users_teachers:{model}' must give each image its own output" in message
    assert what in message
    assert "Switch off" in message
    assert "\n" not in message
    assert not (tmp_path / "store").exists()


def test_a_teacher_as_it_should_be_is_taken(make: Make) -> None:
    assert make(model="users_teachers:Sound", targets=parse("logits")).failures == ()
