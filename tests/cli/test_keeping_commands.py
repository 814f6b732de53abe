"""`geocache gc` and `rm`: said before done, and what is refused."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def old(build: Any, tmp_path: Path) -> Callable[[], Path]:
    """Return a function that builds a cache and makes it 100 days old."""

    def old() -> Path:
        build()
        (folder,) = (tmp_path / "store").glob("*.zarr")
        then = time.time() - 100 * 86400
        for path in folder.rglob("*"):
            os.utime(path, (then, then))
        return folder

    return old


def test_gc_says_and_then_does(run: Any, old: Any) -> None:
    folder = old()
    said = run("gc")
    assert "would go" in said.out and "not used for 100 days" in said.out
    assert "geocache gc --delete" in said.out and folder.exists()
    assert "stays" in run("gc", "--older-than", "30w").out
    document = json.loads(run("gc", "--older-than", "30w", "--max-size", "1kB", "--json").out)
    assert document["deleted"] is False
    assert [cache["remove"] for cache in document["caches"]] == [True]
    assert document["caches"][0]["path"] == str(folder)
    done = run("gc", "--delete")
    assert "removed" in done.out and "Freed" in done.out and not folder.exists()
    assert "Freed 0 B" in run("gc", "--delete").out


def test_gc_keeps_pins_and_says_when_that_is_too_much(run: Any, old: Any) -> None:
    folder = old()
    key = folder.name[:8]
    assert run("name", key, "--pin").code == 0
    result = run("gc", "--max-size", "1kB", "--delete")
    assert "pinned" in result.out and "still more than 1.0 KB" in result.out
    assert folder.exists()


@pytest.mark.parametrize(
    "flags", [("--older-than", "3"), ("--older-than", "-3d"), ("--max-size", "5XB")]
)
def test_ages_and_sizes_need_a_known_unit(run: Any, flags: tuple[str, str]) -> None:
    result = run("gc", *flags)
    assert result.code == 2 and "must be like" in result.err


def test_buckets_are_left_to_their_provider(run: Any) -> None:
    result = run("gc", "--store", "s3://bucket/x")
    assert result.code == 1 and "cannot be known" in result.error


def test_rm_asks_or_needs_yes(run: Any, old: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = old()
    key = folder.name[:8]
    result = run("rm", key)
    assert result.code == 2 and "--yes" in result.err and folder.exists()
    run("name", key, "mine", "--pin")
    result = run("rm", "mine", "--yes")
    assert result.code == 1 and "--unpin" in result.error and folder.exists()
    run("name", "mine", "--unpin")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda text: "n")
    assert run("rm", "mine").code == 130 and folder.exists()
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda text: "y")
    done = run("rm", "mine")
    assert done.code == 0 and "freed" in done.out and not folder.exists()
    assert run("rm", "mine", "--yes").code == 1
    assert run("ls").out.startswith("No caches")


def test_doctor_says_ok_or_what_to_do(run: Any, old: Any) -> None:
    folder = old()
    sound = run("doctor")
    assert sound.code == 0
    assert all(line.split()[0] in ("ok", "warning") for line in sound.out.splitlines())
    assert f"cache {folder.name[:12]}" in sound.out
    (folder / "zarr.json").write_text("{")
    broken = run("doctor")
    assert broken.code == 1 and "problem" in broken.out and "Build it again" in broken.out
    found = json.loads(run("doctor", "--json").out)
    assert [f["what"] for f in found if f["state"] == "problem"] == [f"cache {folder.name}"]
