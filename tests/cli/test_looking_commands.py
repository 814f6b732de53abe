"""`geocache ls`, `show`, `layers`, and the command line as a whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from geocache.data.cache import Cache, target_name


def test_ls_and_show_say_what_is_there(build: Any, run: Any) -> None:
    """Text and JSON agree; a cache is found by the first letters of its key."""
    assert "No caches" in run("ls").out
    assert json.loads(run("ls", "--json").out) == []
    build("--target", "logits", "--target", "mst@layer2")
    (listed,) = json.loads(run("ls", "--json").out)
    text = run("ls").out
    assert listed["key"][:12] in text and "logits layer2/mst" in text
    shown = json.loads(run("show", listed["key"][:6], "--json").out)
    assert shown["key"] == listed["key"]
    arrays = {array["name"]: array for array in shown["arrays"]}
    assert arrays["layer2/mst"]["n_built"] == 40
    assert arrays["layer2/mst"]["shape"] == [1, 1437, 16]
    table = run("show", listed["key"][:6]).out
    assert all(name in table for name in arrays)


def test_sizes_are_those_of_the_files(small_cache: Cache, run: Any) -> None:
    """What `show` sums up is what the disk holds."""
    shown = json.loads(run("show", small_cache.path, "--json").out)
    arrays = {array["name"]: array["n_bytes"] for array in shown["arrays"]}
    for path in small_cache.layouts:
        folder = small_cache.path / path / "c"
        on_disk = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        assert arrays[target_name(path)] == on_disk > 0
    per_row = sum(a["bytes_per_row"] for a in shown["arrays"] if a["name"] in shown["targets"])
    assert shown["target_bytes_per_row"] == pytest.approx(per_row)


def test_show_of_nothing(run: Any, tmp_path: Path) -> None:
    """An unknown key, and a folder that is no cache."""
    for which in ("abcdef", tmp_path):
        result = run("show", which)
        assert result.code == 1 and "geocache ls" in result.error


def test_layers_lists_what_can_be_tapped(run: Any) -> None:
    """Names, shapes and bytes, as text and as JSON."""
    layers = {one["path"]: one for one in json.loads(run("layers", "simple_cnn", "--json").out)}
    assert layers["conv3"]["shape"] == [64, 8, 8]
    assert layers["conv3"]["row_bytes"] == 64 * 64 * 4
    text = run("layers", "resnet_cifar", "--model-option", "depth=8", "--input", "3,16,16").out
    assert "layer3" in text and "64 x 4 x 4" in text
    unknown = run("layers", "simple_cn")
    assert unknown.code == 1 and "Did you mean 'simple_cnn'?" in unknown.error
    assert run("layers", "simple_cnn", "--input", "32").code == 2


def test_help_version_and_unknown_commands(run: Any) -> None:
    """Every command has a line of help and a page of its own."""
    overview = run("--help")
    assert overview.code == 0
    for name in ("build", "train", "eval", "ls", "show", "layers", "demo"):
        assert f"  {name} " in overview.out
        page = run(name, "--help")
        assert page.code == 0 and page.out.startswith(f"Usage: geocache {name}")
    assert run("--version").out.startswith("geocache, version")
    unknown = run("trian")
    assert unknown.code == 2 and "Did you mean 'train'?" in unknown.err
