"""A check-up names what is wrong and what to do, and leaves everything as it was."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from stores import every_file, make_cache, somebody_writes

from geocache.data.abilities import try_abilities
from geocache.data.catalog import label_cache
from geocache.data.digests import memory_path
from geocache.data.doctor import check_caches, check_digests, check_store
from geocache.data.environment import check_environment
from geocache.data.files import Files, using_files
from geocache.data.finding import Finding
from geocache.data.labels import LABEL, Label


def bad(found: list[Finding]) -> list[tuple[str, str]]:
    assert all(finding.remedy for finding in found if finding.state != "ok")
    return [(finding.state, finding.text) for finding in found if finding.state != "ok"]


def test_a_sound_store(tmp_path: Path) -> None:
    folder = make_cache(tmp_path, "a")
    label_cache(folder, Label("mine"))
    before = every_file(tmp_path)
    found = [*check_store(tmp_path), *check_caches(tmp_path)]
    assert bad([f for f in found if f.what != "free space"]) == []
    assert found[-1] == Finding("cache aaaaaaaaaaaa", "ok", "mine, complete")
    assert every_file(tmp_path) == before


def test_a_store_to_come(tmp_path: Path) -> None:
    (finding,) = check_store(tmp_path / "deep" / "store")
    assert finding.state == "ok" and "the first build makes it" in finding.text
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    assert bad(check_store(tmp_path / "file"))[0][0] == "problem"
    assert bad(check_store(tmp_path / "file" / "store"))[0][0] == "problem"
    assert check_caches(tmp_path / "file") == []


def test_each_ability_is_tried(tmp_path: Path) -> None:
    class Renames(Files):
        def rename(self, old: Path, new: Path) -> None:
            new.write_bytes(old.read_bytes())

    class Links(Files):
        def link(self, old: Path, new: Path) -> None:
            new.write_bytes(old.read_bytes())

    class Syncs(Files):
        def sync_folder(self, path: Path) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

    assert all(ability.works for ability in try_abilities(tmp_path))
    for files, what in ((Renames(), "rename"), (Links(), "link"), (Syncs(), "synced")):
        with using_files(files):
            failing = [ability for ability in try_abilities(tmp_path) if not ability.works]
            assert len(failing) == 1 and what in failing[0].what
            (text,) = (text for state, text in bad(check_store(tmp_path)) if state == "problem")
            assert what in text
    assert list(tmp_path.iterdir()) == []


def test_locks_that_do_not_hold_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geocache.data.locks.fcntl", None)
    failing = [ability for ability in try_abilities(tmp_path) if not ability.works]
    assert [ability.what for ability in failing] == ["locks hold between processes"]
    assert not failing[0].needed


def test_a_store_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    ((state, text),) = bad([f for f in check_store(tmp_path) if f.what == "store"])
    assert state == "warning" and "Read-only file system" in text


def test_caches_in_every_state(tmp_path: Path) -> None:
    damaged, left, torn, named = (make_cache(tmp_path, letter) for letter in "abcd")
    (damaged / "zarr.json").write_text((damaged / "zarr.json").read_text().replace("50", "51"))
    (left / "labels" / ".tmp-0123456789abcdef").write_bytes(b"half")
    (torn / "zarr.json").write_text("{")
    label_cache(named, Label("x"))
    (named / LABEL).write_text("{}")
    states = bad(check_caches(tmp_path))
    assert [state for state, _ in states] == ["problem", "warning", "problem", "warning"]
    for (_, text), expected in zip(
        states, ("checksum", "1 leftovers", "no cache can be read", "label"), strict=True
    ):
        assert expected in text


def test_partial_and_written_caches_are_no_fault(tmp_path: Path) -> None:
    folder = make_cache(tmp_path, "a")
    (receipt,) = (folder / "meta" / "receipts" / "labels").glob("*.json")
    receipt.unlink()
    with somebody_writes(folder):
        (finding,) = check_caches(tmp_path)
    assert finding.state == "ok"
    assert finding.text == "somebody writes it, partial: labels 0 of 50 rows"


def test_trash_is_found(tmp_path: Path) -> None:
    (tmp_path / (".trash-" + "a" * 20 + "-" + "0" * 16)).mkdir()
    assert ("warning", "1 removals were cut off") in bad(check_store(tmp_path))


def test_the_digest_memory() -> None:
    assert bad(check_digests()) == []
    memory_path().parent.mkdir(parents=True)
    memory_path().write_bytes(b"this is no database" * 1000)
    ((state, text),) = bad(check_digests())
    assert state == "warning" and str(memory_path()) in text


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    found = {finding.what: finding for finding in check_environment()}
    assert found["idle threads"].state == "ok"
    assert {found[name].state for name in ("python", "torch", "zarr", "numba")} == {"ok"}
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert bad(check_environment()) == [("warning", "may spin (OMP_WAIT_POLICY=ACTIVE)")]
