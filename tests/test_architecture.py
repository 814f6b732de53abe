"""Imports run one way, heavy libraries stay where they belong, and help costs nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import geocache

ROOT = Path(geocache.__file__).parent
FLOORS = (
    ("errors",),
    ("registry", "process"),
    ("geometry",),
    ("targets", "models", "data"),
    ("pipeline", "student_train"),
    ("demo",),
    ("cli",),
)
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def imported(path: Path) -> Iterator[str]:
    """Yield the full names that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(path: Path) -> str:
    """Return the part of the house that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@cache
def edges() -> dict[tuple[str, str], list[str]]:
    """Return which part imports which, with the files that do."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in FILES:
        for name in imported(path):
            if name.startswith("geocache.") and name.split(".")[1] in FLOOR_OF:
                found.setdefault((part(path), name.split(".")[1]), []).append(str(path))
    return found


def test_every_part_has_a_floor() -> None:
    """A new folder must be given its place."""
    assert {part(path) for path in FILES} == set(FLOOR_OF)


def test_imports_run_downward() -> None:
    """No part imports one of a higher floor."""
    upward = {e: files for e, files in edges().items() if FLOOR_OF[e[0]] < FLOOR_OF[e[1]]}
    assert not upward


def test_parts_of_one_floor_do_not_import_each_other_in_a_ring() -> None:
    """Targets, models and data may build on each other one way only."""
    rings = [e for e in edges() if e[0] != e[1] and (e[1], e[0]) in edges()]
    assert not rings


def test_pipeline_and_student_train_meet_at_the_cache() -> None:
    """Neither imports the other."""
    assert ("pipeline", "student_train") not in edges()
    assert ("student_train", "pipeline") not in edges()


@pytest.mark.parametrize(
    ("library", "home"),
    [
        ("zarr", "data/store.py"),
        ("dask", "pipeline/executors/dask.py"),
        ("distributed", "pipeline/executors/dask.py"),
    ],
)
def test_a_library_has_one_home(library: str, home: str) -> None:
    """Exactly one file imports it, so that replacing it is one file's work."""
    users = {
        path.relative_to(ROOT).as_posix()
        for path in FILES
        if any(name.split(".")[0] == library for name in imported(path))
    }
    assert users <= {home}


def test_help_loads_nothing_heavy() -> None:
    """`geocache --help` lists every command without torch, dask, zarr or numpy."""
    code = (
        "import sys, contextlib, io\n"
        "from geocache.cli import main\n"
        "out = io.StringIO()\n"
        "with contextlib.redirect_stdout(out):\n"
        "    assert main(['--help']) == 0\n"
        "assert 'build' in out.getvalue() and 'train' in out.getvalue()\n"
        "print(*sorted({'torch', 'dask', 'distributed', 'zarr', 'numpy'} & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout.strip(), result.stderr) == ("", "")


def test_every_public_name_can_be_had() -> None:
    """What `__all__` promises is there, is what the type checker sees, and is loaded once."""
    stated = {
        alias.asname or alias.name
        for node in ast.walk(ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("geocache.")
        for alias in node.names
    }
    assert stated == set(geocache.__all__)
    assert all(getattr(geocache, name) is getattr(geocache, name) for name in geocache.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = geocache.no_such_name
