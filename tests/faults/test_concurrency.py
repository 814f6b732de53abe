"""Writers and readers of one cache, interleaved at every file call, against a simple model.

The model is what has been committed for sure: a reader that begins after a commit has ended sees
those rows, as some writer wrote them, whatever others do meanwhile or die of.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from baton import Actor, Baton, Killed
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from geocache.data.cache import Cache
from geocache.data.files import using_files
from geocache.data.layout import ArrayLayout, Group
from geocache.data.leftovers import remove_leftovers
from geocache.data.writer import CacheWriter, create_cache, small_layout
from geocache.errors import MissingTargetError

N_ROWS, GROUP_ROWS = 6, 3
LAYOUT = ArrayLayout(
    "targets/l/mst", "uint8", N_ROWS, (2,), ("node",), 2,
    attributes={"geocache": {"kind": "mst"}}, sizes=(GROUP_ROWS, GROUP_ROWS),
)  # fmt: skip
ABOUT = {
    "key": "k" * 64,
    "identity": {"format": 1, "teacher": {"mean": [0.5] * 3, "std": [0.2] * 3}},
    "classes": ["a", "b"],
    "n_rows": N_ROWS,
    "image_shape": [8, 8, 3],
    "probe": [[1.0]],
}
MOST_ACTORS = 4


def rows_of(library: int) -> np.ndarray:
    """What a version of the libraries computes; the last bits differ."""
    return np.random.default_rng(7).integers(0, 99, (N_ROWS, 2)).astype(np.uint8) + library


def labels_of(number: int) -> np.ndarray:
    return np.arange(N_ROWS, dtype=np.int64) * (number + 1)


class CacheMachine(RuleBasedStateMachine):
    """Starts actors, lets them take steps, kills some, and checks what readers saw."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "cache.zarr"
        self.baton = Baton()
        self.patch = pytest.MonkeyPatch()
        self.baton.patient_locks(self.patch)
        self.layer = using_files(self.baton)
        self.layer.__enter__()
        create_cache(self.path, ABOUT)
        writer = CacheWriter(self.path, {"library": 0})
        writer.declare(LAYOUT)
        writer.replace(small_layout("labels", labels_of(0)), labels_of(0))
        self.actors: dict[Actor, Any] = {}
        self.sure = {group.index: 0 for group in LAYOUT.groups()}
        self.numbers = {0}
        self.label: int | None = 0
        """The one that counts, None while several corrections are under way or one has died."""

    def start(self, name: str, work: Any, about: Any = None) -> None:
        if len(self.actors) < MOST_ACTORS:
            self.actors[Actor(self.baton, name, work)] = about

    def writer(self, library: int) -> CacheWriter:
        return CacheWriter(self.path, {"library": library})

    @rule(index=st.integers(0, 1), library=st.integers(0, 2), n_rows=st.integers(1, GROUP_ROWS))
    def commit(self, index: int, library: int, n_rows: int) -> None:
        start = index * GROUP_ROWS
        group = Group(0, index, start, start + n_rows)

        def work() -> None:
            writer = self.writer(library)
            with writer.objects.writing():
                writer.commit(LAYOUT, group, rows_of(library)[start : group.stop])

        self.start("commit", work, group)

    @rule(number=st.integers(1, 4))
    def relabel(self, number: int) -> None:
        def work() -> None:
            writer = self.writer(0)
            with writer.objects.writing():
                writer.replace(small_layout("labels", labels_of(number)), labels_of(number))

        if len(self.actors) < MOST_ACTORS:
            others = any(actor.name == "relabel" for actor in self.actors)
            self.label = None
            self.numbers.add(number)
            self.start("relabel", work, None if others else number)
            for actor in self.actors if others else ():
                if actor.name == "relabel":
                    self.actors[actor] = None

    @precondition(lambda self: all(n == GROUP_ROWS for n in self.sure.values()))
    @rule()
    def publish(self) -> None:
        self.start("publish", lambda: self.writer(0).publish(LAYOUT))

    @rule()
    def clean(self) -> None:
        def work() -> None:
            cache = Cache(self.path)
            with cache.objects.alone() as alone:
                if alone:
                    remove_leftovers(cache)

        self.start("clean", work)

    @rule(start=st.integers(0, N_ROWS - 1), stop=st.integers(1, N_ROWS))
    def read(self, start: int, stop: int) -> None:
        if start < stop:
            work = lambda: Cache(self.path).read("l/mst", start, stop)  # noqa: E731
            self.start("read", work, (start, stop, dict(self.sure)))

    @rule()
    def read_labels(self) -> None:
        self.start("read labels", lambda: Cache(self.path).read("labels", 0, N_ROWS))

    @precondition(lambda self: self.actors)
    @rule(which=st.integers(0, MOST_ACTORS - 1), steps=st.integers(1, 9))
    def advance(self, which: int, steps: int) -> None:
        actor = list(self.actors)[which % len(self.actors)]
        for _ in range(steps):
            if not actor.finished:
                actor.advance()
        if actor.finished:
            self.judge(actor, self.actors.pop(actor))

    @precondition(lambda self: self.actors)
    @rule(which=st.integers(0, MOST_ACTORS - 1))
    def kill(self, which: int) -> None:
        actor = list(self.actors)[which % len(self.actors)]
        actor.kill()
        assert isinstance(actor.error, Killed | None)
        del self.actors[actor]

    def judge(self, actor: Actor, about: Any) -> None:
        """Hold what an actor did against the model, and the model against what it did."""
        if actor.name == "read":
            start, stop, sure = about
            if isinstance(actor.error, MissingTargetError):
                assert any(
                    min(stop, i * GROUP_ROWS + GROUP_ROWS) > i * GROUP_ROWS + n_rows
                    and stop > i * GROUP_ROWS
                    and start < i * GROUP_ROWS + GROUP_ROWS
                    for i, n_rows in sure.items()
                ), f"rows {start} to {stop} were committed: {actor.error}"
                return
        if actor.error is not None:
            raise actor.error
        if actor.name == "read":
            self.check_rows(actor.result, start, stop)
        if actor.name == "read labels":
            known = self.numbers if self.label is None else self.numbers | {self.label}
            assert any(np.array_equal(actor.result, labels_of(n)) for n in known)
        if actor.name == "commit":
            self.sure[about.index] = max(self.sure[about.index], about.stop - about.start)
        if actor.name == "relabel":
            self.label = about

    def check_rows(self, rows: np.ndarray, start: int, stop: int) -> None:
        for index in range(start // GROUP_ROWS, -(-stop // GROUP_ROWS)):
            low, high = max(start, index * GROUP_ROWS), min(stop, (index + 1) * GROUP_ROWS)
            found = rows[low - start : high - start]
            assert any(np.array_equal(found, rows_of(k)[low:high]) for k in range(3))

    @invariant()
    def at_rest_everything_reads(self) -> None:
        if not hasattr(self, "actors") or self.actors:
            return
        cache = Cache(self.path)
        for index, n_rows in self.sure.items():
            start = index * GROUP_ROWS
            self.check_rows(cache.read("l/mst", start, start + n_rows), start, start + n_rows)
        if self.label is not None:
            assert np.array_equal(cache.labels, labels_of(self.label))

    def teardown(self) -> None:
        if not hasattr(self, "actors"):
            return
        try:
            for actor in self.actors:
                actor.kill()
            self.actors.clear()
            self.at_rest_everything_reads()
            remove_leftovers(Cache(self.path))
            self.at_rest_everything_reads()
            left = [path.name for path in self.path.rglob("*") if path.is_file()]
            assert not [name for name in left if name.endswith(".next") or ".tmp-" in name]
        finally:
            self.layer.__exit__(None, None, None)
            self.patch.undo()
            shutil.rmtree(self.folder)


class TestCache(CacheMachine.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(max_examples=40, stateful_step_count=40)


@pytest.mark.slow
class TestCacheLonger(CacheMachine.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(max_examples=1500, stateful_step_count=80)
