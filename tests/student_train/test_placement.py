"""Resident or streamed: decided by bytes, shared between ranks, and said."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from geocache.errors import ConfigError
from geocache.student_train import Loader
from geocache.student_train.memory import budget_bytes, free_bytes, in_units, parse_bytes

CPU = torch.device("cpu")
TARGETS = ("logits", "layer2/mst")
# An image of 12 x 12 x 3, three logits in two bytes each, 36 parents.
ROW_BYTES = 12 * 12 * 3 + 3 * 2 + 36


@pytest.mark.parametrize(("text", "n_bytes"), [
    (5, 5), ("5", 5), ("4GB", 4 * 10**9), ("512 MiB", 2**29), ("1.5k", 1500), ("2tb", 2 * 10**12),
])  # fmt: skip
def test_sizes_are_numbers_or_texts(text: int | str, n_bytes: int) -> None:
    assert parse_bytes(text) == n_bytes


@pytest.mark.parametrize("text", ["", "lots", "4 iB", "-1", 0, -5, "0GB"])
def test_other_sizes_are_refused(text: int | str) -> None:
    with pytest.raises(ConfigError, match="memory must be a number of bytes or a size such as"):
        parse_bytes(text)


def test_sizes_are_said_as_people_read_them() -> None:
    assert [in_units(n) for n in (7, 1500, 134_217_728, 2.5e9)] == [
        "7 B", "1.5 kB", "134 MB", "2.5 GB",
    ]  # fmt: skip


def test_half_of_what_is_free_is_the_default() -> None:
    free = free_bytes(CPU)
    assert 2**20 < free < 2**50
    assert abs(budget_bytes(None, CPU, 1) - free // 2) < free // 4


def test_ranks_of_a_machine_share_its_memory(cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert budget_bytes("8GB", CPU, 4) == 2 * 10**9
    cache.group = 8
    exact = 61 * ROW_BYTES
    options: dict[str, Any] = {"memory": 2 * exact, "buffer_rows": 8, "world_size": 4}
    assert Loader(cache, TARGETS, local_world_size=2, **options).mode == "resident"
    assert Loader(cache, TARGETS, **options).mode == "stream"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert Loader(cache, TARGETS, **options).mode == "resident"


def test_what_fits_is_resident_and_one_byte_less_streams(
    cache: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cache.group = 8
    exact = 61 * ROW_BYTES
    with caplog.at_level(logging.INFO, "geocache"):
        loader = Loader(cache, TARGETS, memory=exact, buffer_rows=8)
    assert loader.mode == "resident"
    assert loader.describe() == (
        f"resident: 61 rows, {in_units(exact)}, fit {in_units(exact)} of the memory allowed; "
        "exact shuffle"
    )
    assert [r.getMessage() for r in caplog.records] == [f"loader is {loader.describe()}"]
    streamed = Loader(cache, TARGETS, memory=exact - 1, buffer_rows=8)
    assert streamed.mode == "stream"
    assert "more than" in streamed.describe() and "windows of 8" in streamed.describe()


def test_what_is_asked_for_is_done(cache: Any) -> None:
    cache.group = 8
    assert Loader(cache, mode="resident", memory=1).mode == "resident"
    assert Loader(cache, mode="stream", buffer_rows=8).mode == "stream"


def test_a_buffer_that_does_not_fit_is_refused_with_one_that_does(cache: Any) -> None:
    cache.group = 8
    with pytest.raises(ConfigError, match=r"a buffer_rows of at most 12 \(at least 8") as refused:
        Loader(cache, TARGETS, mode="stream", memory=24 * ROW_BYTES, buffer_rows=20)
    assert "memory must hold the buffer of a streaming loader" in str(refused.value)
    fits = Loader(cache, TARGETS, mode="stream", memory=24 * ROW_BYTES, buffer_rows=12)
    assert sum(len(batch.rows) for batch in fits.epoch(0)) == 60


@pytest.mark.parametrize(("options", "message"), [
    ({"mode": "fast"}, "mode must be one of auto, resident, stream, got 'fast'"),
    ({"buffer_rows": 0}, "buffer_rows must be at least 1"),
    ({"workers": -1}, "workers must be at least 0"),
    ({"rank": 2, "world_size": 2}, "rank must be one of 0 to 1, got 2"),
    ({"batch_size": 2, "world_size": 3}, "batch_size must give each of 3 ranks a row, got 2"),
])  # fmt: skip
def test_bad_options_are_refused(cache: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Loader(cache, **options)
