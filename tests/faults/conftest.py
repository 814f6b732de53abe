"""Faults are injected into builds of the tiny worlds, cut into many small row groups."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))

import scenarios
from shape_checker import unchecked_shapes


@pytest.fixture(scope="module", autouse=True)
def hasty() -> Iterator[None]:
    """Leave the arrays' shapes to the tests without faults; builds repeat hundreds of times."""
    with unchecked_shapes():
        yield


@pytest.fixture(scope="module", autouse=True)
def small_groups() -> Iterator[None]:
    """Cut arrays into row groups of 2 KiB: 20 images are three of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geocache.data.layout._GROUP_BYTES", 2**11)
        patch.setattr("geocache.data.layout._CHUNK_BYTES", 2**8)
        yield


@pytest.fixture(scope="module")
def prepared(
    small_groups: None, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, scenarios.Prepared]:
    """Every scenario's cache before the step that is disturbed, and undisturbed after it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return {name: scenarios.prepare(name, folder / name) for name in scenarios.SCENARIOS}
