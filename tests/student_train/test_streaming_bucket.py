"""The loader over a bucket: the batches of the folder, read as far as they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from s3_server import Proxy

from benchmarks.synthetic import write_cache
from geocache.data.cache import Cache
from geocache.data.transfer import copy_cache
from geocache.errors import GeocacheError
from geocache.student_train import Loader

STREAM: dict[str, Any] = {"mode": "stream", "buffer_rows": 2048, "batch_size": 100, "seed": 3}


@pytest.fixture
def pushed(bucket: str, tmp_path: Path) -> tuple[Cache, Cache]:
    """A cache of 5,000 rows, three row groups an array, in a folder and in a bucket."""
    local = write_cache(tmp_path / "store" / f"{5000:064x}"[:20], 5000)
    copied = copy_cache(local.path, bucket)
    return local, Cache(copied.destination)


def test_a_bucket_gives_the_batches_of_the_folder(pushed: tuple[Cache, Cache]) -> None:
    local, distant = (Loader(cache, ["logits"], **STREAM) for cache in pushed)
    resident = Loader(pushed[1], ["logits"], batch_size=100, mode="resident")
    assert len(resident.rows) == 5000
    for epoch in (0, 1):
        n = 0
        for ours, theirs in zip(distant.epoch(epoch), local.epoch(epoch), strict=True):
            assert torch.equal(ours.images, theirs.images) and torch.equal(ours.rows, theirs.rows)
            assert torch.equal(ours.targets["logits"], theirs.targets["logits"])
            n += len(ours.rows)
        assert n == 5000


def test_a_later_start_asks_for_no_earlier_objects(
    proxy: Proxy, pushed: tuple[Cache, Cache]
) -> None:
    loader = Loader(pushed[1], ["logits"], **STREAM, workers=0)
    proxy.requests.clear()
    whole = [batch.rows for batch in loader.epoch(4)]
    asked = {request.path for request in proxy.requests if "/c/" in request.path}
    proxy.requests.clear()
    rest = [batch.rows for batch in loader.epoch(4, start_batch=45)]
    again = {request.path for request in proxy.requests if "/c/" in request.path}
    assert all(map(torch.equal, whole[45:], rest)) and again < asked


def test_a_bucket_that_is_gone_ends_in_one_line(
    proxy: Proxy, pushed: tuple[Cache, Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of a reading thread reaches the loop, and no thread is left behind."""
    loader = Loader(pushed[1], ["logits"], **STREAM)
    proxy.refuse = lambda request: 403 if "/c/" in request.path else 0
    with pytest.raises(GeocacheError) as raised:
        list(loader.epoch(0))
    assert "\n" not in str(raised.value)
