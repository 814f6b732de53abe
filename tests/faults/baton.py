"""Threads that run one at a time, from file call to file call, in an order that the test says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from layers import Watched

from geocache.data import locks
from geocache.data.marks import Mark

_WAIT_S = 60.0
"""A thread that takes longer for one step hangs, and the test says so."""


class Killed(BaseException):
    """What stands for SIGKILL in a thread: nothing of it is caught."""


class Actor:
    """Does some work in a thread of its own, whenever it is told to."""

    def __init__(self, baton: Baton, name: str, work: Callable[[], Any]) -> None:
        self.name, self._baton, self._work = name, baton, work
        self.finished = self.killed = False
        self.result: Any = None
        self.error: BaseException | None = None
        self._go = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def advance(self) -> None:
        """Let it run to its next file call, or to its end."""
        self._go.release()
        assert self._baton.turn.acquire(timeout=_WAIT_S), f"{self.name} hangs"
        if self.finished:
            self._thread.join(_WAIT_S)

    def kill(self) -> None:
        """Let no further call of it do anything."""
        self.killed = True
        while not self.finished:
            self.advance()

    def pause(self) -> None:
        """Give the turn back, and wait for the next one."""
        if not self.killed:
            self._baton.turn.release()
            self._go.acquire()
        if self.killed:
            raise Killed

    def _run(self) -> None:
        self._go.acquire()
        self._baton.actors[threading.get_ident()] = self
        try:
            if not self.killed:
                self.result = self._work()
        except BaseException as error:
            self.error = error
        finally:
            del self._baton.actors[threading.get_ident()]
            self.finished = True
            self._baton.turn.release()


class Baton(Watched):
    """File calls at which an actor gives its turn back; other threads pass."""

    def __init__(self) -> None:
        self.turn = threading.Semaphore(0)
        self.actors: dict[int, Actor] = {}

    def before(self, call: str, path: Path, data: bytes = b"") -> None:
        self.pause()

    def read_marked(self, path: Path) -> tuple[bytes, Mark | None]:
        # Python 3.11 lets no two threads into functools.cached_property, which reads these.
        if "meta/arrays" not in path.as_posix():
            self.pause()
        return super().read_marked(path)

    def pause(self) -> None:
        """Give the turn back where an actor is running."""
        actor = self.actors.get(threading.get_ident())
        if actor is not None:
            actor.pause()

    def patient_locks(self, patch: pytest.MonkeyPatch) -> None:
        """Let actors give their turn back, too, while they wait for a lock."""
        real = locks._lock

        def lock(descriptor: int, *, shared: bool, wait: bool, otherwise: bool) -> bool:
            while not real(descriptor, shared=shared, wait=False, otherwise=otherwise):
                if not wait:
                    return False
                self.pause()
            return True

        patch.setattr(locks, "_lock", lock)
