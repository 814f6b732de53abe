"""`geocache import`: files in, targets out, and one line for whatever is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import geocache
from geocache.data.datasets import open_dataset

DIGITS = ("--dataset", "digits")
RECIPE = """
data = {dataset = "%s", root = "nowhere"}
teacher = {cache = "%s"}
student = {model = "simple_cnn"}
loss = [{name = "cross_entropy"}, {name = "distillation", temperature = 4.0, share = 0.5}]
train = {epochs = 1, batch_size = 64, device = "cpu"}
"""


@pytest.fixture
def logits(tmp_path: Path) -> Path:
    """Noisy but informed logits of the training digits, in the data set's order."""
    labels = open_dataset("digits", split="train").labels
    rng = np.random.default_rng(0)
    values = 4 * np.eye(10)[labels] + rng.normal(0, 1, (len(labels), 10))
    np.save(tmp_path / "net.npy", values.astype(np.float32))
    return tmp_path / "net.npy"


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """A .npz with a map of a layer and the labels of its rows."""
    labels = open_dataset("digits", split="train").labels
    values = np.random.default_rng(0).normal(size=(len(labels), 3, 4, 4)).astype(np.float16)
    np.savez(tmp_path / "maps.npz", conv2=values, labels=labels)
    return tmp_path / "maps.npz"


def test_imported_logits_train_a_student(run: Any, logits: Path) -> None:
    """From the file to the student, by the recipe's cache, without the data set and with it."""
    made = run("import", logits, "--target", "logits", *DIGITS, "--eval-dataset", "digits")
    assert made.code == 0 and "shown by agreement with the labels" in made.out
    key = made.out.split()[1]
    stored = geocache.open(key).read("logits", 0, 1437)
    assert np.array_equal(stored, np.load(logits)[geocache.open(key).dataset_index].astype("f2"))
    for dataset in ("imagefolder", "digits"):
        text = RECIPE % (dataset, key[:10])
        text = text if dataset == "imagefolder" else text.replace(', root = "nowhere"', "")
        Path(f"{dataset}.toml").write_text(text, encoding="utf-8")
        trained = run("train", f"{dataset}.toml", "--json")
        assert trained.code == 0, trained.err
        assert json.loads(trained.out)["last_test_accuracy"] is not None
    built = run("build", "digits.toml")
    assert built.code == 1 and "geocache import" in built.error


def test_a_missing_target_names_the_import(run: Any, logits: Path) -> None:
    """A recipe of an imported cache cannot be built, so the remedy is another import."""
    made = json.loads(run("import", logits, "--target", "logits", *DIGITS, "--json").out)
    text = (RECIPE % ("digits", made["key"][:10])).replace(
        'name = "distillation", temperature = 4.0',
        'name = "affinity_contrast", student = "conv2", teacher = "conv2", radius = 2',
    )
    Path("r.toml").write_text(text.replace(', root = "nowhere"', ""), encoding="utf-8")
    refused = run("train", "r.toml")
    assert refused.code == 1
    assert f"`geocache import FILE --cache {made['key'][:10]}" in refused.error


def test_every_target_of_a_map_joins_one_cache(run: Any, logits: Path, maps: Path) -> None:
    """The member's labels show the order; a second call has nothing to do."""
    key = json.loads(run("import", logits, "--target", "logits", *DIGITS, "--json").out)["key"]
    targets = ("--target", "mst@conv2", "--target", "affinity:radius=2,5@conv2")
    report = json.loads(run("import", maps, *targets, "--cache", key[:8], "--json").out)
    assert report["key"] == key and report["checked"] == "labels"
    assert report["imported"] == ["conv2/mst", "conv2/affinity.r2", "conv2/affinity.r5"]
    again = run("import", maps, *targets, "--cache", key[:8])
    assert again.code == 0 and again.out.count("nothing to do") == 3
    (about,) = json.loads(run("ls", "--json").out)
    assert set(about["targets"]) == {"logits", *report["imported"]}


def test_ids_place_rows_in_any_order(run: Any, logits: Path, tmp_path: Path) -> None:
    """A member `sample_id` is used without being asked, and --ids names another."""
    straight = json.loads(run("import", logits, "--target", "logits", *DIGITS, "--json").out)
    ids = open_dataset("digits", split="train").digests()
    order = np.random.default_rng(1).permutation(len(ids))
    np.savez(tmp_path / "net.npz", logits=np.load(logits)[order], sample_id=ids[order])
    np.save(tmp_path / "shuffled.npy", np.load(logits)[order])
    np.save(tmp_path / "ids.npy", ids[order])
    for args in (["net.npz"], ["shuffled.npy", "--ids", "ids.npy", "--teacher", "net"]):
        report = json.loads(run("import", *args, "--target", "logits", *DIGITS, "--json").out)
        assert (report["key"], report["checked"]) == (straight["key"], "ids")
        assert report["imported"] == []


def test_what_is_wrong_is_one_line(run: Any, logits: Path, maps: Path, tmp_path: Path) -> None:
    """Exit code 1, nothing on stdout, no store."""
    values = np.load(logits)
    np.save(tmp_path / "shuffled.npy", np.random.default_rng(0).permutation(values))
    np.save(tmp_path / "short.npy", values[:-1])
    np.save(tmp_path / "objects.npy", np.array([{}, {}]), allow_pickle=True)
    values[3, 2] = np.nan
    np.save(tmp_path / "nan.npy", values)
    plain = np.load(maps)["conv2"]
    np.save(tmp_path / "map.npy", plain)
    for args, words in (
        (["shuffled.npy", "--target", "logits"], ["1,437", "order is probably wrong"]),
        (["short.npy", "--target", "logits"], ["1,437", "1,436", "digits/train"]),
        (["objects.npy", "--target", "logits"], ["objects.npy", "never loaded"]),
        (["nan.npy", "--target", "logits"], ["row 3", "nan.npy"]),
        (["map.npy", "--target", "mst@a"], ["--ids or --labels", "--unchecked"]),
        (["map.npy", "--target", "mst"], ["must name a layer"]),
        (["map.npy", "--target", "mts@a"], ["Did you mean 'mst'?"]),
        (["maps.npz", "--target", "mst@a", "--member", "conv"], ["Did you mean 'conv2'?"]),
        (["nothing.npy", "--target", "logits"], ["nothing.npy"]),
        (["map.npy", "--target", "mst@a", "--target", "mst@b"], ["one layer"]),
    ):
        result = run("import", *args, *DIGITS)
        assert (result.code, result.out) == (1, ""), args
        assert all(word in result.error for word in words), result.error
    assert not (tmp_path / "store").exists()
    assert run("import", "map.npy", "--target", "mst@a", *DIGITS, "--unchecked").code == 0


@pytest.mark.parametrize(
    "args",
    [
        ["net.npy", *DIGITS],
        ["net.npy", "--target", "logits"],
        ["net.npy", "--target", "logits", *DIGITS, "--cache", "abcd"],
        ["net.npy", "--target", "logits", "--cache", "abcd", "--mean", "0,0,0"],
        ["net.npy", "--target", "logits", "--cache", "abcd", "--no-images"],
        ["net.npy", "--target", "logits", *DIGITS, "--order", "rows", "--ids", "i.npy"],
        ["net.npy", "--target", "logits", *DIGITS, "--order", "random"],
    ],
)
def test_wrong_usage_is_exit_code_2(run: Any, logits: Path, args: list[str]) -> None:
    """The usage line is shown and nothing is written."""
    result = run("import", *args)
    assert result.code == 2 and "Usage: geocache import" in result.err


def test_options_of_the_cache_count(run: Any, logits: Path) -> None:
    """Normalisation and size are the cache's; without images it says so."""
    given = ("--mean", "0,0,0", "--std", "1,1,1", "--size", "16", "--no-images", "--teacher", "me")
    report = json.loads(run("import", logits, "--target", "logits", *DIGITS, *given, "--json").out)
    about = json.loads(run("show", report["key"][:8], "--json").out)
    teacher = about["teacher"]
    assert (teacher["model"], teacher["mean"]) == ("imported:me", [0, 0, 0])
    assert about["image_shape"] == [16, 16, 3]
    assert "images" not in [array["name"] for array in about["arrays"]]
