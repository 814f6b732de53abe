"""A cache may come from a stranger: what its arrays are named by is not imported by looking."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from geocache.data.cache import Cache
from geocache.data.sealed import seal, unseal
from geocache.errors import MissingTargetError
from geocache.student_train import Loader
from geocache.targets import target_from_name

EVIL = "layer2/evil~mod~Cls"


@pytest.fixture
def foreign(build: Any, run: Any, tmp_path: Path) -> Iterator[Cache]:
    """A whole cache with an array that is named by a module that lies in the current folder."""
    assert build("--target", "pooled@layer2").code == 0
    (path,) = (tmp_path / "store").iterdir()
    for front in ("targets", "meta/arrays/targets", "meta/receipts/targets"):
        shutil.copytree(path / front / "layer2" / "pooled", path / front / EVIL)
    receipts = path / "meta" / "receipts" / "targets" / EVIL
    for receipt in receipts.iterdir():
        document = unseal(receipt.read_bytes(), "pooled")
        text = json.dumps(document).replace("layer2/pooled", EVIL)
        receipt.unlink()
        receipt.write_bytes(seal(json.loads(text)))
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "mod.py").write_text("raise SystemExit('it was imported')")
    yield Cache(path)
    for name in ("evil", "evil.mod"):
        sys.modules.pop(name, None)


def test_the_trap_works(foreign: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for the target by name imports its module, so the tests below could fail."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    for ask in (foreign.decoder, target_from_name):
        with pytest.raises(SystemExit, match="it was imported"):
            ask(EVIL)


def test_opening_and_listing_import_nothing(foreign: Cache, run: Any, recipe: Path) -> None:
    """`ls`, `show`, the cache's own lists and rows, and training from another target of it."""
    (listed,) = json.loads(run("ls", "--json").out)
    assert EVIL in listed["targets"]
    assert EVIL in run("ls").out and EVIL in run("show", foreign.key[:8]).out
    shown = json.loads(run("show", foreign.path, "--json").out)
    assert EVIL in [array["name"] for array in shown["arrays"]]
    assert EVIL in foreign.target_names() and foreign.n_built(EVIL) == 40
    assert foreign.read(EVIL, 0, 40).shape == foreign.read("layer2/pooled", 0, 40).shape
    with pytest.raises(MissingTargetError, match="evil~mod~Cls"):
        foreign.read("layer2/mst", 0, 1)
    assert len(next(Loader(foreign, ["layer2/pooled"], rows=range(40)).epoch(0)).rows) == 40
    missing = run("train", recipe, "--cache", foreign.path)
    assert missing.code == 1 and "layer2/mst" in missing.error
    assert not {"evil", "evil.mod"} & set(sys.modules)


def test_building_more_imports_nothing(foreign: Cache, build: Any) -> None:
    """Another target joins the cache; its neighbours are left alone."""
    assert build("--target", "mst@layer2").code == 0
    assert "layer2/mst" in Cache(foreign.path).target_names()
    assert not {"evil", "evil.mod"} & set(sys.modules)
