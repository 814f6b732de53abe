"""Two writers of the same thing stopped at every pair of file calls, and a reader that looks then.

The first writer goes on, or has died there: readers see what counts, and the end is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from baton import Actor, Baton
from test_concurrency import ABOUT, GROUP_ROWS, LAYOUT, N_ROWS, labels_of, rows_of

from geocache.data.cache import Cache
from geocache.data.files import using_files
from geocache.data.layout import Group
from geocache.data.leftovers import remove_leftovers
from geocache.data.writer import CacheWriter, create_cache, small_layout

Work = Callable[[Path], None]
FEW = 1


def relabel(number: int) -> Work:
    def work(path: Path) -> None:
        writer = CacheWriter(path, {})
        with writer.objects.writing():
            writer.replace(small_layout("labels", labels_of(number)), labels_of(number))

    return work


def grow(library: int, n_rows: int = GROUP_ROWS) -> Work:
    def work(path: Path) -> None:
        writer = CacheWriter(path, {"library": library})
        with writer.objects.writing():
            writer.commit(LAYOUT, Group(0, 0, 0, n_rows), rows_of(library)[:n_rows])

    return work


def begin_a_group(path: Path) -> None:
    writer = CacheWriter(path, {"library": 1})
    with writer.objects.writing():
        writer.commit(LAYOUT, Group(0, 1, GROUP_ROWS, N_ROWS), rows_of(1)[GROUP_ROWS:])


def clean(path: Path) -> None:
    cache = Cache(path)
    with cache.objects.alone() as alone:
        if alone:
            remove_leftovers(cache)


PAIRS: dict[str, tuple[Work, Work]] = {
    "two corrections": (relabel(1), relabel(2)),
    "a correction taken back": (relabel(1), relabel(0)),
    "two that grow": (grow(1), grow(2)),
    "one that grows further": (grow(1, 2), grow(2)),
    "one that grows less": (grow(1), grow(2, 2)),
    "a collector and a writer that grows": (clean, grow(1)),
    "a collector and a writer that begins": (clean, begin_a_group),
}


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Baton]]:
    """A cache of labels and of one committed row, to be copied, and the turns of actors."""
    path = tmp_path / "start.zarr"
    create_cache(path, ABOUT)
    CacheWriter(path, {}).declare(LAYOUT)
    relabel(0)(path)
    grow(0, FEW)(path)
    baton = Baton()
    baton.patient_locks(monkeypatch)
    with using_files(baton):
        yield path, baton


def check(path: Path) -> None:
    """Assert that labels and committed rows read as one writer or another wrote them."""
    cache = Cache(path)
    labels = cache.read("labels", 0, N_ROWS)
    assert any(np.array_equal(labels, labels_of(number)) for number in range(3))
    if (0, 1) in cache.receipts(LAYOUT):
        assert np.array_equal(cache.read("l/mst", GROUP_ROWS, N_ROWS), rows_of(1)[GROUP_ROWS:])
    n_rows = cache.receipts(LAYOUT).get((0, 0), 0)
    assert n_rows >= FEW
    rows = cache.read("l/mst", 0, n_rows)
    assert any(np.array_equal(rows, rows_of(library)[:n_rows]) for library in range(3))


def advance(actor: Actor, steps: int) -> bool:
    """Take some steps; return whether there were as many."""
    for _ in range(steps):
        if actor.finished:
            return False
        actor.advance()
    return True


def finish(*actors: Actor) -> None:
    while not all(actor.finished for actor in actors):
        for actor in actors:
            if not actor.finished:
                actor.advance()
    for actor in actors:
        if actor.error is not None:
            raise actor.error


def meet(
    path: Path, baton: Baton, pair: tuple[Work, Work], first: int, second: int, *, dies: bool
) -> tuple[bool, bool]:
    """Stop one writer, then the other; return whether each was still at work."""
    a, b = (Actor(baton, f"writer {n}", lambda w=w: w(path)) for n, w in enumerate(pair))
    try:
        working = advance(a, first)
        if dies:
            a.kill()
            a.error = None
        if second < 9:  # Else it has been looked at already.
            check(path)
        both = working, advance(b, second)
        check(path)
        finish(b) if dies else finish(a, b)
    finally:
        a.kill()
        b.kill()
    check(path)
    clean(path)
    check(path)
    left = [file.name for file in path.rglob("*") if file.is_file()]
    assert not [name for name in left if name.endswith(".next") or name.startswith(".tmp-")]
    return both


def meet_at(start: tuple[Path, Baton], name: str, path: Path, dies: bool, step: int) -> None:
    """Stop the first writer at every call, and the second at every `step`-th."""
    template, baton = start
    n_pairs = 0
    for first in count():
        working = True
        for second in range(first % step, 60, step):
            shutil.copytree(template, path)
            try:
                working, more = meet(path, baton, PAIRS[name], first, second, dies=dies)
            except BaseException as error:
                error.add_note(f"with {name} stopped at {first} and {second}")
                raise
            shutil.rmtree(path)
            n_pairs += 1
            if not more:
                break
        if not working:
            break
    assert n_pairs > 8


DIES = pytest.mark.parametrize("dies", [False, True], ids=["goes on", "dies"])


@DIES
@pytest.mark.parametrize("name", PAIRS)
def test_many_pairs_of_calls(
    start: tuple[Path, Baton], tmp_path: Path, name: str, dies: bool
) -> None:
    meet_at(start, name, tmp_path / "cache.zarr", dies, 23)


@pytest.mark.slow
@DIES
@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_of_calls(
    start: tuple[Path, Baton], tmp_path: Path, name: str, dies: bool
) -> None:
    meet_at(start, name, tmp_path / "cache.zarr", dies, 1)
