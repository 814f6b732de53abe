"""Serial or Dask: the same bytes at the same thread count, the same reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from worlds import contents, images, parse

from geocache.data.identity import row_order
from geocache.errors import ConfigError
from geocache.pipeline.build import BuildReport

Make = Callable[..., BuildReport]
N = 4500


def test_dask_gives_the_bytes_of_serial_and_reports_failures_alike(
    make: Make, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    dataset = images(n=N)
    harmful = int(row_order(dataset.digests(), dataset.labels)[4200])
    data = {"n": N, "harm": "crash", "harmful": harmful, "flag": str(flag)}
    report = make(data=data, executor="dask", n_workers=2)
    (failure,) = report.failures
    assert (failure.start, failure.stop) == (4096, N)
    assert failure.reason == "RuntimeError: the network share went away"
    assert report.rows_built == 4096
    flag.unlink()
    serial = make("serial", data={"n": N}, n_threads=1)
    finished = make(data=data)
    assert finished.rows_built == N - 4096
    assert contents(finished) == contents(serial)


def test_no_scheduler_is_said_in_one_line(make: Make) -> None:
    with pytest.raises(ConfigError, match="--scheduler must be the address"):
        make(executor="dask", scheduler="no-protocol://nowhere")


def test_serial_gives_the_thread_count_back(make: Make) -> None:
    torch.set_num_threads(2)
    make(n_threads=1)
    assert torch.get_num_threads() == 2


def test_threads_are_told_in_the_receipts(make: Make) -> None:
    one, two = make("one", n_threads=1), make("two", n_threads=2)
    name = "meta/receipts/logits/v0-g000000-r000300.json"
    assert '"threads": 1' in contents(one)[name].decode()
    assert '"threads": 2' in contents(two)[name].decode()


def test_many_targets_of_many_layers_at_once(make: Make) -> None:
    texts = ("activation@stage1", "mask:radius=1,3@stage2", "mask:k=2@stage2", "mst@stage2",
             "knn:k=4@stage1", "affinity:k=4@stage1", "pooled@stage1", "logits")  # fmt: skip
    together = make("together", targets=parse(*texts))
    for text in reversed(texts):
        apart = make("apart", targets=parse(text))
    assert _without_histories(apart) == _without_histories(together)


def _without_histories(report: BuildReport) -> dict[str, bytes]:
    """A cache's files, without what receipts say of the targets that others followed from."""
    files = contents(report)
    for name, data in files.items():
        if name.startswith("meta/receipts/"):
            receipt = json.loads(data)
            receipt.pop("derived_from", None)
            receipt.pop("sha256")
            files[name] = json.dumps(receipt).encode()
    return files
