"""A finished cache, read by geocache, by plain zarr and by xarray, which know nothing of it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
import zarr
from zarr.storage import LocalStore

from geocache.data.cache import Cache, open_cache
from geocache.data.datasets import open_dataset
from geocache.errors import CacheError, MissingTargetError
from geocache.geometry import knn_mask, tree_mask

TARGETS = {
    "logits", "layer1/mst", "layer1/affinity.r2", "layer1/affinity.r5", "layer1/knn.k8",
    "layer1/affinity.k8", "layer1/mask.r2", "layer2/mst", "layer2/affinity.r2",
    "layer3/activation", "layer3/pooled",
}  # fmt: skip
quiet = pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")


def plain(cache: Cache) -> Any:
    return zarr.open_group(LocalStore(cache.path, read_only=True), mode="r")


def test_what_a_cache_says_of_itself(small_cache: Cache) -> None:
    assert small_cache.n_rows == 1437
    assert small_cache.classes == tuple("0123456789")
    assert set(small_cache.target_names()) == TARGETS
    assert all(small_cache.n_built(name) == 1437 for name in (*TARGETS, "images", "valid"))
    assert small_cache.n_built("layer9/mst") == 0
    assert small_cache.valid.all()
    assert small_cache.image_shape == (8, 8, 3)
    assert open_cache(small_cache.key[:8], small_cache.path.parent).key == small_cache.key


def test_rows_are_the_data_set_in_another_order(small_cache: Cache) -> None:
    dataset = open_dataset("digits", split="train")
    index = small_cache.dataset_index
    assert sorted(index) == list(range(1437))
    images = small_cache.read("images", 0, 1437)
    for row in (0, 1, 700, 1436):
        assert np.array_equal(images[row], dataset.read(int(index[row])))
    assert np.array_equal(small_cache.labels, dataset.labels[index])
    assert np.array_equal(small_cache.sample_id, dataset.digests()[index])


def test_the_evaluation_split_stands_in_the_cache(small_cache: Cache) -> None:
    dataset = open_dataset("digits", split="test")
    assert small_cache.eval_images is not None
    assert small_cache.eval_labels is not None
    assert small_cache.eval_images.shape == (360, 8, 8, 3)
    held = {(i.tobytes(), int(y)) for i, y in
            zip(small_cache.eval_images, small_cache.eval_labels, strict=True)}  # fmt: skip
    assert held == {(dataset.read(i).tobytes(), int(dataset.labels[i])) for i in range(360)}


@quiet
def test_plain_zarr_reads_every_array(small_cache: Cache) -> None:
    group = plain(small_cache)
    for name in TARGETS:
        array = group[name if name == "logits" else f"targets/{name}"]
        assert np.array_equal(array[0], small_cache.read(name, 0, 1437))
        assert array.metadata.dimension_names[:2] == ("view", "row")
    for name in ("images", "labels", "sample_id", "dataset_index", "valid"):
        assert group[name].metadata.dimension_names[0] == "row"
    assert np.array_equal(group["labels"][:], small_cache.labels)


@quiet
def test_xarray_decodes_affinity_by_its_attributes(small_cache: Cache) -> None:
    with xarray.open_zarr(
        small_cache.path, group="targets/layer1", zarr_format=3, consolidated=False
    ) as dataset:
        assert dataset["affinity.r5"].dims == ("view", "row", "node")
        decoded = dataset["affinity.r5"].values[0]
        mask = dataset["mask.r2"].values[0]
        assert dataset["mst"].dtype == np.uint8
    stored = torch.from_numpy(small_cache.read("layer1/affinity.r5", 0, 1437))
    ours = small_cache.decoder("layer1/affinity.r5").decode(stored).numpy()
    assert decoded.dtype.kind == "f"
    assert decoded == pytest.approx(ours, abs=1e-6)
    assert 0 <= decoded.min() < decoded.max() <= 1
    assert mask.dtype == bool
    assert np.array_equal(mask, small_cache.mask("layer1", radius=2))


def test_masks_of_any_radius_and_any_shorter_k(small_cache: Cache) -> None:
    rows = slice(5, 12)
    parents = torch.from_numpy(small_cache.read("layer1/mst", 5, 12).astype(np.int32))
    lists = torch.from_numpy(small_cache.read("layer1/knn.k8", 5, 12).astype(np.int32))
    for radius in (1, 3, 50):
        found = small_cache.mask("layer1", radius=radius, rows=rows)
        assert np.array_equal(found, tree_mask(parents, radius).numpy())
    for k in (1, 5, 8):
        found = small_cache.mask("layer1", k=k, rows=rows)
        assert np.array_equal(found, knn_mask(lists, k).numpy())
    with pytest.raises(MissingTargetError, match=r"layer1/knn.k9"):
        small_cache.mask("layer1", k=9)
    with pytest.raises(MissingTargetError, match=r"no target 'layer3/mst'"):
        small_cache.mask("layer3", radius=2)


def test_an_unknown_target_names_the_held_ones(small_cache: Cache) -> None:
    with pytest.raises(MissingTargetError, match=r"no target 'layer1/mts'; it holds .*layer1/mst"):
        small_cache.read("layer1/mts", 0, 1)
    with pytest.raises(MissingTargetError, match="geocache build"):
        small_cache.decoder("layer4/mst")


def test_everything_to_decode_stands_in_the_attributes(small_cache: Cache) -> None:
    array = plain(small_cache)["targets/layer1/affinity.r5"]
    own = array.attrs["geocache"]
    assert (own["kind"], own["layer"]) == ("affinity", "layer1")
    assert own["parameters"] == {"radius": 5, "k": None}
    assert own["tapped_shape"] == [16, 8, 8]
    assert array.attrs["grid"] == [8, 8]
    about = plain(small_cache).attrs["geocache"]
    assert about["key"] == small_cache.key
    assert about["classes"] == list("0123456789")


def test_no_pickle_and_no_path_of_this_machine(small_cache: Cache) -> None:
    for file in small_cache.path.rglob("*.json"):
        text = file.read_text()
        json.loads(text)
        assert str(Path.home()) not in text
        assert str(small_cache.path) not in text
    kinds = {f.suffix for f in small_cache.path.rglob("*") if f.is_file()}
    assert kinds == {".json", ""}  # Chunks have numbers for names.


@pytest.fixture
def copy(small_cache: Cache, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_cache.path, tmp_path / "copy.zarr"))


def change(folder: Path, **fields: Any) -> None:
    document = json.loads((folder / "zarr.json").read_text())
    about = document["attributes"]["geocache"]
    for name, value in fields.items():
        if value is None:
            del about[name]
        else:
            about[name] = value
    (folder / "zarr.json").write_text(json.dumps(document))


@pytest.mark.parametrize("field", ["identity", "classes", "n_rows", "image_shape"])
def test_a_damaged_description_is_refused(copy: Path, field: str) -> None:
    change(copy, **{field: None})
    with pytest.raises(CacheError, match=f"must hold a geocache cache, got KeyError.*{field}"):
        Cache(copy)


def test_a_folder_that_is_no_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"zarr\.json"):
        Cache(tmp_path)


def _read_whole(cache: Cache, path: str) -> None:
    layout = cache.layouts[path]
    if path.startswith("eval/"):
        _ = cache.eval_images, cache.eval_labels
    elif path in ("labels", "dataset_index", "sample_id"):
        getattr(cache, path)
    else:
        cache.read(path.removeprefix("targets/"), 0, layout.n_rows)


DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "first bit": lambda good: bytes([good[0] ^ 1]) + good[1:],
    "last bit": lambda good: good[:-1] + bytes([good[-1] ^ 128]),
    "cut": lambda good: good[: len(good) // 2],
    "cut by one": lambda good: good[:-1],
    "empty": lambda good: b"",
    "gone": lambda good: None,
    "longer": lambda good: good + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_object_of_any_array_is_named(copy: Path, damage: str) -> None:
    for path, layout in Cache(copy).layouts.items():
        for group in layout.groups():
            key = layout.object_key(group)
            file = copy / key
            good = file.read_bytes()
            file.chmod(0o644)
            bad = DAMAGE[damage](good)
            if bad is None:
                file.unlink()
            else:
                file.write_bytes(bad)
            with pytest.raises(CacheError, match=re.escape(f"'{key}'")):
                _read_whole(Cache(copy), path)
            file.write_bytes(good)
            _read_whole(Cache(copy), path)


def test_labels_cut_anywhere_are_named(copy: Path) -> None:
    layout = Cache(copy).layouts["labels"]
    file = copy / layout.object_key(layout.groups()[0])
    good = file.read_bytes()
    for length in (*range(0, len(good), 7), len(good) - 1):
        file.write_bytes(good[:length])
        with pytest.raises(CacheError, match="damaged"):
            _ = Cache(copy).labels


def test_a_whole_object_of_another_array_is_named(copy: Path) -> None:
    cache = Cache(copy)
    layouts = [cache.layouts[f"targets/layer1/affinity.r{radius}"] for radius in (2, 5)]
    files = [copy / layout.object_key(layout.groups()[0]) for layout in layouts]
    good = [file.read_bytes() for file in files]
    files[0].write_bytes(good[1])
    with pytest.raises(CacheError, match="not the one that its receipt describes"):
        Cache(copy).read("layer1/affinity.r2", 0, 10)
