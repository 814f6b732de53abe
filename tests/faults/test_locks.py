"""Who may write, collect or claim, and what a layer may be called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from baton import Actor, Baton

from geocache.data import locks
from geocache.data.files import using_files
from geocache.data.objects import LocalObjects


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    (tmp_path / "cache").mkdir()
    return LocalObjects(tmp_path / "cache")


def test_a_writer_waits_for_who_is_alone(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    baton, entered = Baton(), []

    def write() -> None:
        with objects.writing():
            entered.append(True)

    baton.patient_locks(monkeypatch)
    writer = Actor(baton, "writer", write)
    with using_files(baton):
        with objects.alone() as alone:
            assert alone
            writer.advance()
            writer.advance()
            assert not entered
        while not writer.finished:
            writer.advance()
    assert entered
    assert writer.error is None


def test_nobody_is_alone_beside_a_writer_or_without_locks(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    with objects.writing(), objects.writing(), objects.alone() as alone:
        assert not alone
    with objects.alone() as alone:
        assert alone
    monkeypatch.setattr(locks, "fcntl", None)
    with objects.alone() as alone, objects.writing() as writing, objects.claim("work") as ours:
        assert (alone, writing, ours) == (False, True, True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes read-only folders")
def test_nobody_is_alone_in_a_read_only_folder(objects: LocalObjects) -> None:
    objects.root.chmod(0o555)
    with objects.alone() as alone, objects.writing() as writing, objects.claim("work") as ours:
        assert (alone, writing, ours) == (False, True, True)
    objects.root.chmod(0o755)


def test_a_place_that_takes_no_lock_files(objects: LocalObjects) -> None:
    (objects.root / "meta").write_text("a file where the folder of locks should be")
    with objects.alone() as alone, objects.writing() as writing, objects.claim("work") as ours:
        assert (alone, writing, ours) == (False, True, True)


def test_cleaning_takes_claims_and_unfinished_writes_alone(objects: LocalObjects) -> None:
    for key in ("targets/claims/zarr.json", "targets/claims/mst/zarr.json", "meta/claims/old"):
        objects.put(key, b"{}")
    (objects.root / "targets" / ".tmp-0123456789abcdef").write_bytes(b"{")
    assert objects.clean() == ["meta/claims/old", "targets/.tmp-0123456789abcdef"]
    assert [key for key, _ in objects.walk()] == [
        "targets/claims/mst/zarr.json",
        "targets/claims/zarr.json",
    ]


def test_what_vanishes_meanwhile_is_not_listed(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects.put("a/b", b"1")
    objects.put("a/c", b"2")
    walk = os.walk

    def slow_walk(top: Path) -> object:
        for found in walk(top):
            objects.delete("a/b")
            yield found

    monkeypatch.setattr(os, "walk", slow_walk)
    assert objects.walk() == [("a/c", 1)]
