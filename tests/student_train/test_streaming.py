"""Streaming: the order is a function of (seed, epoch, position), memory is bounded, threads end."""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geocache.data.views import ViewSet, build_policy
from geocache.errors import CacheError, ConfigError
from geocache.student_train import Batch, Loader
from geocache.student_train.instructors import Instructors
from geocache.student_train.order import epoch_order
from geocache.student_train.streamed import Streamed
from geocache.student_train.windows import Share, WindowOrder

TARGETS = ("logits", "layer2/mst", "layer2/affinity.r2")
STREAM: dict[str, Any] = {"mode": "stream", "buffer_rows": 16, "batch_size": 9, "seed": 3}


@pytest.fixture
def blocks(cache: Any) -> Any:
    """The cache of 61 rows, read in blocks of 8."""
    cache.group = 8
    return cache


def rows_of(batches: Iterator[Batch]) -> list[list[int]]:
    """Return the rows of each batch."""
    return [batch.rows.tolist() for batch in batches]


def flat(lists: Iterable[list[int]]) -> list[int]:
    """Return the lists one after the other."""
    return list(chain.from_iterable(lists))


def same(a: Batch, b: Batch) -> bool:
    """Return whether two batches hold the same bits."""
    names = set(a.targets) == set(b.targets)
    pairs = [(a.images, b.images), (a.labels, b.labels), (a.rows, b.rows)]
    pairs += [(a.targets[name], b.targets[name]) for name in a.targets]
    return names and all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("mode", ["stream", "resident"])
def test_every_row_comes_once_with_its_own_values(blocks: Any, mode: str) -> None:
    loader = Loader(blocks, TARGETS, **{**STREAM, "mode": mode})
    seen = []
    for batch in loader.epoch(2):
        assert same(batch, loader.batch(batch.rows.numpy()))
        assert batch.images.is_contiguous()
        assert batch.labels.tolist() == blocks.labels[batch.rows.numpy()].tolist()
        seen += batch.rows.tolist()
    assert sorted(seen) == [row for row in range(61) if row != 7]


def test_resident_and_streamed_rows_are_the_same_bits(blocks: Any) -> None:
    streamed = Loader(blocks, TARGETS, **STREAM)
    resident = Loader(blocks, TARGETS, mode="resident")
    for batch in streamed.epoch(0):
        assert same(batch, resident.batch(batch.rows.numpy()))
    assert all(
        same(a, b) for a, b in zip(streamed.in_order(), Loader(
            blocks, TARGETS, mode="resident", batch_size=9).in_order(), strict=True)
    )  # fmt: skip


def test_the_order_is_the_same_for_any_number_of_threads(blocks: Any) -> None:
    orders = [
        [rows_of(Loader(blocks, TARGETS, workers=n, **STREAM).epoch(e)) for e in range(3)]
        for n in (0, 1, 4)
    ]
    assert orders[0] == orders[1] == orders[2]
    assert orders[0][0] != orders[0][1]
    assert orders[0] != [
        rows_of(Loader(blocks, TARGETS, **STREAM | {"seed": 4}).epoch(e)) for e in range(3)
    ]


def test_the_order_does_not_depend_on_the_targets(blocks: Any) -> None:
    """Recipes that differ only in their losses see the same batches."""
    assert rows_of(Loader(blocks, **STREAM).epoch(0)) == rows_of(
        Loader(blocks, TARGETS, **STREAM).epoch(0)
    )


@pytest.mark.parametrize("mode", ["stream", "resident"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_batches_of_one_process(blocks: Any, mode: str, world_size: int) -> None:
    options = {**STREAM, "mode": mode}
    whole = rows_of(Loader(blocks, **options).epoch(1))
    parts = [
        rows_of(Loader(blocks, rank=rank, world_size=world_size, **options).epoch(1))
        for rank in range(world_size)
    ]
    assert [flat(batch) for batch in zip(*parts, strict=True)] == whole
    assert max(len(p) - len(q) for a in parts for b in parts for p, q in zip(a, b, strict=True)) < 2


def test_a_last_batch_too_short_for_all_ranks_is_left_out_on_each(blocks: Any) -> None:
    """60 rows in batches of 29 leave 2: three ranks cannot share them, and wait for none."""
    for mode in ("stream", "resident"):
        options = {**STREAM, "mode": mode, "batch_size": 29}
        loaders = [Loader(blocks, rank=r, world_size=3, **options) for r in range(3)]
        assert [len(rows_of(loader.epoch(0))) for loader in loaders] == [2, 2, 2]
        assert [len(loader) for loader in loaders] == [2, 2, 2]
        kept = flat(flat(rows_of(loader.in_order())) for loader in loaders)
        assert len(kept) == len(set(kept)) == 60


@pytest.mark.parametrize("mode", ["stream", "resident"])
def test_an_epoch_goes_on_at_any_batch(blocks: Any, mode: str) -> None:
    options = {**STREAM, "mode": mode}
    whole = list(Loader(blocks, TARGETS, **options).epoch(1))
    for done in range(len(whole) + 1):
        first = Loader(blocks, TARGETS, **options)
        running = first.epoch(1)
        for _ in range(done):
            next(running)
        # Only once something came is there a place to go on from.
        state = first.state_dict() if done else {**first.state_dict(), "epoch": 1}
        assert (state["epoch"], state["batch"]) == (1, done)
        second = Loader(blocks, TARGETS, **options, workers=1)
        second.load_state_dict(state)
        rest = list(second.epoch(1))
        assert len(rest) == len(whole) - done
        assert all(same(a, b) for a, b in zip(rest, whole[done:], strict=True))
        assert second.state_dict()["epoch"] == 2 and second.state_dict()["batch"] == 0
        assert len(rows_of(second.epoch(1))) == len(whole)  # a state counts once


def test_ranks_go_on_where_one_process_stopped(blocks: Any) -> None:
    one = Loader(blocks, **STREAM)
    running = one.epoch(0)
    next(running), next(running)
    parts = []
    for rank in range(2):
        loader = Loader(blocks, rank=rank, world_size=2, **STREAM)
        loader.load_state_dict(one.state_dict())
        parts.append(rows_of(loader.epoch(0)))
    assert [a + b for a, b in zip(*parts, strict=True)] == rows_of(running)


def test_a_loader_alone_takes_what_all_ranks_take_together(blocks: Any) -> None:
    loader = Loader(blocks, rank=1, world_size=2, **STREAM)
    assert rows_of(loader.alone().epoch(1)) == rows_of(Loader(blocks, **STREAM).epoch(1))
    assert loader.alone()._held is loader._held and (loader.rank, loader.world_size) == (1, 2)


def test_a_state_of_another_order_is_refused(blocks: Any) -> None:
    state = Loader(blocks, **STREAM).state_dict()
    for change in ({"seed": 4}, {"batch_size": 8}, {"mode": "resident"}, {"buffer_rows": 24}):
        with pytest.raises(ConfigError, match=f"loader's {next(iter(change))} must be that of"):
            Loader(blocks, **STREAM | change).load_state_dict(state)
    with pytest.raises(ConfigError, match="loader's rows must be"):
        Loader(blocks, rows=range(40), **STREAM).load_state_dict(state)


class Watched:
    """A source that counts the rows of images that were read, and fails where it is told to."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.reads: list[tuple[str, int, int]] = []
        self.n_images = 0
        self.broken = -1
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def read(self, name: str, start: int, stop: int, view: int = 0) -> Any:
        if start <= self.broken < stop and name != "images":
            raise CacheError(f"object 'c/{start}' is damaged: row {self.broken}")
        with self._lock:
            self.reads.append((name, start, stop))
            self.n_images += (stop - start) * (name == "images")
        return self._source.read(name, start, stop, view)


@pytest.mark.parametrize("workers", [0, 2])
def test_no_more_rows_are_read_ahead_than_two_windows(blocks: Any, workers: int) -> None:
    source = Watched(blocks)
    loader = Loader(source, TARGETS, workers=workers, **STREAM | {"batch_size": 3})
    source.n_images, used, most = 0, 0, 0
    for batch in loader.epoch(0):
        # Windows whose rows are all used are gone; what else was read is held.
        most = max(most, source.n_images - used)
        used += len(batch.rows)
    assert used == source.n_images == 60  # row 7 is invalid, and the last of its block
    assert most <= (2 if workers else 1) * STREAM["buffer_rows"] + 3


@pytest.mark.parametrize("workers", [0, 2])
def test_no_more_than_two_windows_are_held(
    blocks: Any, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted by the arrays that are alive, however they are."""
    alive: list[weakref.ref[Any]] = []
    most = 0
    original = Streamed._empty

    def counted(self: Streamed, shape: tuple[int, ...], dtype: Any) -> Any:
        nonlocal most
        made = original(self, shape, dtype)
        alive.append(weakref.ref(made))
        held = [array for ref in alive if (array := ref()) is not None and array.ndim == 4]
        most = max(most, sum(map(len, held)))
        return made

    monkeypatch.setattr(Streamed, "_empty", counted)
    loader = Loader(blocks, TARGETS, workers=workers, **STREAM | {"batch_size": 5})
    kept = list(loader.epoch(0))
    assert sum(len(batch.rows) for batch in kept) == 60
    assert 16 <= most <= (2 if workers else 1) * STREAM["buffer_rows"]


def test_each_row_group_of_each_array_is_read_once_an_epoch(blocks: Any) -> None:
    source = Watched(blocks)
    loader = Loader(source, TARGETS, **STREAM)
    source.reads.clear()
    rows_of(loader.epoch(0))
    assert len(source.reads) == len(set(source.reads)) == 8 * 4
    assert {stop - start for _, start, stop in source.reads} == {5, 7, 8}  # row 7 is invalid


def test_going_on_reads_nothing_that_lies_before(blocks: Any) -> None:
    source = Watched(blocks)
    loader = Loader(source, **STREAM)
    source.n_images = 0
    rest = rows_of(loader.epoch(0, start_batch=6))
    assert sum(map(len, rest)) == 6
    assert source.n_images <= 2 * STREAM["buffer_rows"]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_error_of_a_reading_thread_reaches_the_consumer(blocks: Any, workers: int) -> None:
    source = Watched(blocks)
    loader = Loader(source, TARGETS, workers=workers, **STREAM)
    source.broken = 30
    before = threading.active_count()
    with pytest.raises(CacheError, match="is damaged: row 30"):
        rows_of(loader.epoch(0))
    assert threading.active_count() == before


def test_closing_an_epoch_early_ends_its_threads(blocks: Any) -> None:
    before = threading.active_count()
    running = Loader(blocks, TARGETS, workers=3, **STREAM).epoch(0)
    next(running)
    assert threading.active_count() > before
    running.close()
    assert threading.active_count() == before


def test_kept_batches_keep_no_window(blocks: Any) -> None:
    """What a batch holds is its own: changing it changes no other batch."""
    loader = Loader(blocks, TARGETS, **STREAM)
    running = loader.epoch(0)
    first = next(running)
    before = copy.deepcopy(first)
    for name, values in first.targets.items():
        assert values.untyped_storage().nbytes() == values.numel() * values.element_size(), name
    list(running)
    assert same(first, before)


def test_rows_and_restrictions_are_streamed(blocks: Any) -> None:
    loader = Loader(blocks, TARGETS, rows=[*range(5), 7, 20, 21, 50], **STREAM)
    assert sorted(flat(rows_of(loader.epoch(0)))) == [0, 1, 2, 3, 4, 20, 21, 50]
    part = loader.restrict(np.array([2, 21, 50, 60]), targets=False)
    (batch,) = part.in_order(None)
    assert batch.rows.tolist() == [2, 21, 50] and not batch.targets
    assert loader.targets == TARGETS


def test_views_are_streamed(blocks: Any) -> None:
    blocks.views = ViewSet(build_policy("crop_flip", {"pad": 2}), 1, 2)
    digests = np.random.default_rng(0).integers(0, 256, (61, 32)).astype(np.uint8)
    blocks.arrays["views"] = np.stack(
        [blocks.views.parameters(digests, view, (12, 12, 3)) for view in range(2)]
    )
    streamed = Loader(blocks, **STREAM)
    resident = Loader(blocks, mode="resident", batch_size=9)
    for epoch in range(3):
        for batch in streamed.epoch(epoch):
            assert same(batch, resident.batch(batch.rows.numpy(), epoch % 2))
    zipped = zip(streamed.in_order(None), resident.in_order(None), strict=True)
    assert all(same(a, b) for a, b in zipped)


def test_several_teachers_are_streamed(blocks: Any) -> None:
    other = copy.deepcopy(blocks)
    other.arrays["logits"] = -other.arrays["logits"]
    other.valid[3] = False
    source = Instructors({"near": blocks, "far": other})
    seen = []
    for batch in Loader(source, ("near/logits", "far/logits"), **STREAM).epoch(0):
        assert torch.equal(batch.at("near")["logits"], -batch.at("far")["logits"])
        seen += batch.rows.tolist()
    assert sorted(seen) == [row for row in range(61) if row not in (3, 7)]


SETS = st.sets(st.integers(0, 500), min_size=1, max_size=200)


@given(rows=SETS, block=st.integers(1, 40), window=st.integers(1, 90), epoch=st.integers(0, 9))
def test_windows_hold_every_row_once_and_few_at_a_time(
    rows: set[int], block: int, window: int, epoch: int
) -> None:
    given_rows = np.array(sorted(rows), dtype=np.int64)
    order = WindowOrder(given_rows, block, window)
    windows = list(order.windows(5, epoch))
    assert all(w.stop - w.start <= max(block, window) for w in windows)
    assert [w.start for w in windows[1:]] == [w.stop for w in windows[:-1]]
    assert windows[0].stop <= block
    seen = np.concatenate([order.rows_in(w, 5, epoch) for w in windows])
    assert sorted(seen.tolist()) == sorted(rows)
    for w in windows:
        part = order.rows_in(w, 5, epoch)
        assert np.array_equal(part, epoch_order(part, seed=5, epoch=epoch))


@given(
    n=st.integers(1, 300), size=st.integers(1, 50), ranks=st.integers(1, 4), least=st.integers(1, 2)
)
def test_batches_that_give_a_rank_too_few_rows_are_left_out(
    n: int, size: int, ranks: int, least: int
) -> None:
    sizes = Share(size, 0, ranks).sizes(n, per_rank=least)
    assert sizes[:-1] == [size] * (len(sizes) - 1) and 0 < sizes[-1] <= size
    left = n - sum(sizes)
    assert left == 0 or (0 < left < least * ranks and left == n % size)
    assert len(sizes) == 1 or sizes[-1] >= min(size, least * ranks)


@given(n=st.integers(1, 200), size=st.integers(4, 50), ranks=st.integers(1, 4))
def test_shares_cover_every_position_once(n: int, size: int, ranks: int) -> None:
    numbers = range(-(-n // size))
    held = np.zeros(n, int)
    for rank in range(ranks):
        for worker in range(2):
            share = Share(size, rank, ranks, worker, 2)
            own = share.numbers(len(numbers))
            parts = [np.arange(n)[share.part(number, n)] for number in own]
            ours = share.holds(np.arange(n), n, own)
            assert np.flatnonzero(ours).tolist() == [i for part in parts for i in part]
            held += ours
    assert (held == 1).all()
