"""The loader as PyTorch data sets: the same rows, order and values through a DataLoader."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from geocache.data.cache import Cache
from geocache.data.datasets import open_dataset
from geocache.data.views import ViewSet, build_policy
from geocache.pipeline.build import BuildRequest, build
from geocache.student_train import Batch, Loader
from geocache.targets import parse_target

# Said of machines with few cores; the number of workers is what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

TARGETS = ("logits", "layer2/mst", "layer2/affinity.r2")
MODES = ("resident", "stream")


def loader_of(cache: Any, mode: str, **options: Any) -> Loader:
    """Return a loader in blocks of 8 rows and windows of 16."""
    cache.group = 8
    return Loader(cache, TARGETS, **{"batch_size": 9, "mode": mode, "buffer_rows": 16} | options)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Return whether two dictionaries hold the same bits under the same names."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n_workers", [0, 1, 3])
def test_batches_come_in_the_loaders_order(cache: Any, mode: str, n_workers: int) -> None:
    loader = loader_of(cache, mode)
    stream = loader.iterable()
    stream.set_epoch(2)
    got = list(DataLoader(stream, batch_size=None, num_workers=n_workers))
    wanted = [batch.as_dict() for batch in loader.epoch(2)]
    assert len(got) == len(wanted) == len(stream) == 7
    assert all(same(a, b) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("n_workers", [0, 2])
def test_single_rows_come_in_the_loaders_order(cache: Any, n_workers: int) -> None:
    loader = loader_of(cache, "stream")
    stream = loader.iterable(1, single=True)
    assert len(stream) == 60
    got = list(DataLoader(stream, batch_size=9, num_workers=n_workers))
    wanted = [batch.as_dict() for batch in loader.epoch(1)]
    assert all(same(a, b) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("mode", MODES)
def test_ranks_see_their_own_rows_alone(cache: Any, mode: str) -> None:
    streams = [loader_of(cache, mode, rank=r, world_size=2).iterable(single=True) for r in (0, 1)]
    rows = [[int(item["rows"]) for item in DataLoader(s, batch_size=None)] for s in streams]
    assert sorted(rows[0] + rows[1]) == [row for row in range(61) if row != 7]
    assert [len(stream) for stream in streams] == [len(part) for part in rows]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n_workers", [0, 2])
def test_rows_by_number_collate_to_batches(cache: Any, mode: str, n_workers: int) -> None:
    loader = loader_of(cache, mode)
    dataset = loader.dataset()
    assert len(dataset) == 60
    assert same(dataset[7], dataset[7]) and int(dataset[7]["rows"]) == loader.rows[7] == 8
    assert int(dataset[-1]["rows"]) == 60
    with pytest.raises(IndexError):
        dataset[60]
    got = list(DataLoader(dataset, batch_size=9, num_workers=n_workers))
    wanted = [batch.as_dict() for batch in loader.in_order()]
    assert all(same(a, b) for a, b in zip(got, wanted, strict=True))


def test_a_dictionary_becomes_the_batch_again(cache: Any) -> None:
    batch = next(loader_of(cache, "resident").epoch(0))
    again = Batch.from_dict(batch.as_dict())
    assert same(again.as_dict(), batch.as_dict())
    assert again.at("layer2").keys() == {"labels", "mst", "affinity.r2"}


def test_rows_follow_the_epochs_view(cache: Any) -> None:
    cache.views = ViewSet(build_policy("flip"), 0, 2)
    cache.arrays["views"] = torch.tensor([[[0]] * 61, [[1]] * 61], dtype=torch.uint8).numpy()
    dataset = loader_of(cache, "resident").dataset()
    first = dataset[3]["images"]
    dataset.set_epoch(1)
    assert torch.equal(dataset[3]["images"], first.flip(-1)) and not torch.equal(
        dataset[3]["images"], first
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_loader_of_a_cache_goes_to_another_process(small_cache: Cache, mode: str) -> None:
    """Where workers are spawned, it is pickled."""
    loader = Loader(small_cache, ["logits"], mode=mode)
    again: Loader = pickle.loads(pickle.dumps(loader))
    pairs = zip(loader.epoch(1), again.epoch(1), strict=True)
    assert all(same(a.as_dict(), b.as_dict()) for a, b in pairs)


PAGE = Path(__file__).parents[2] / "docs" / "loader.md"


def test_the_page_runs_as_it_stands(tmp_path: Path) -> None:
    """Only the cache's name is put in; every block trains the student."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    report = build(
        BuildRequest(
            dataset=open_dataset("fakedata", options={"n": 40, "classes": 3, "size": 32}),
            model="resnet_cifar", options={"depth": 8}, targets=tuple(parse_target("logits")),
            store=tmp_path, executor="serial", batch_size=20,
        )
    )  # fmt: skip
    names: dict[str, Any] = {}
    before = None
    for block in blocks:
        if "student" in names:
            names["student"].zero_grad()
        exec(block.replace("CACHE", str(report.path)), names)
        weights = next(names["student"].parameters())
        assert weights.grad is not None and weights.grad.abs().sum() > 0
        if "step()" in block:
            assert before is None or not torch.equal(before, weights)
            before = weights.detach().clone()
