"""Collecting: what goes by which rule, what stays whatever the rules, nothing before it is told."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores import DAY, age, every_file, make_cache, somebody_writes

from geocache.data.cache import Cache, open_cache
from geocache.data.catalog import label_cache, list_caches
from geocache.data.collect import Held, Rules, choose, collect
from geocache.data.files import Files, using_files
from geocache.data.labels import LABEL, Label
from geocache.data.objects import LocalObjects
from geocache.data.removal import being_written, remove_cache
from geocache.errors import CacheError, StorageError
from geocache.pipeline.foundation import writing


def keys(store: Path) -> str:
    return "".join(entry.key[0] for entry in list_caches(store))


def gone(store: Path, rules: Rules) -> str:
    """Collect, and return the letters of the caches that went."""
    before = keys(store)
    collect(store, rules, delete=True)
    return "".join(sorted(set(before) - set(keys(store))))


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    folder = make_cache(tmp_path, "a", days=200)
    make_cache(tmp_path, "b", days=10)
    stays = make_cache(tmp_path, "c", days=1)
    (stays / "labels" / ".tmp-0123456789abcdef").write_bytes(b"half")
    age(stays, 1)
    (tmp_path / ".trash-dddd-0123456789abcdef").mkdir()
    before = every_file(tmp_path)
    found = collect(tmp_path, Rules(max_bytes=0))
    assert every_file(tmp_path) == before
    assert [v.remove for v in found.verdicts] == [True, True, True]
    found = collect(tmp_path, Rules())
    assert every_file(tmp_path) == before
    assert [(v.cache.key[0], v.remove) for v in found.verdicts] == [
        ("a", True), ("b", False), ("c", False)
    ]  # fmt: skip
    assert found.verdicts[0].cache.path == folder
    assert [left.key for left in found.leftovers] == ["labels/.tmp-0123456789abcdef"]
    assert len(found.trash) == 1


def test_old_caches_go_and_what_is_freed_is_said(tmp_path: Path) -> None:
    old, young = make_cache(tmp_path, "a", days=200), make_cache(tmp_path, "b", days=80)
    size = sum(f.stat().st_size for f in old.rglob("*") if f.is_file())
    kept = sum(f.stat().st_size for f in young.rglob("*") if f.is_file())
    found = collect(tmp_path, Rules(), delete=True)
    assert (found.n_bytes, found.n_bytes_kept) == (size, kept)
    assert keys(tmp_path) == "b"
    assert sorted(path.name for path in tmp_path.iterdir()) == [young.name]
    assert Cache(young).labels.shape == (50,)
    assert gone(tmp_path, Rules(older_than_s=30 * DAY)) == "b"


def test_reading_keeps_a_cache(tmp_path: Path) -> None:
    for letter in "ab":
        make_cache(tmp_path, letter, days=200)
    open_cache("aaaa", tmp_path)
    assert gone(tmp_path, Rules(max_bytes=0)) == "b"


def test_pins_stay_also_damaged_ones(tmp_path: Path) -> None:
    for letter in "abc":
        folder = make_cache(tmp_path, letter)
        label_cache(folder, Label(f"name-{letter}", pinned=letter == "a"))
        if letter == "b":
            (folder / LABEL).write_bytes(b"{}")
        age(folder, 200)
    assert gone(tmp_path, Rules(max_bytes=0)) == "c"


def test_what_somebody_writes_stays(tmp_path: Path) -> None:
    folder = make_cache(tmp_path, "a", days=200)
    (folder / "labels" / ".tmp-0123456789abcdef").write_bytes(b"half written")
    with somebody_writes(folder):
        age(folder, 200)
        before = every_file(tmp_path)
        found = collect(tmp_path, Rules(max_bytes=0), delete=True)
        assert [(v.remove, v.why) for v in found.verdicts] == [(False, "it is being written")]
        assert remove_cache(folder, "a" * 64) == (0, "it is being written")
        assert every_file(tmp_path) == before
    assert gone(tmp_path, Rules()) == "a"


def test_a_builder_that_begins_between_look_and_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verdict says remove; the lock taken since then keeps the cache."""
    from geocache.data import collect as module

    folder = make_cache(tmp_path, "a", days=200)
    monkeypatch.setattr(module, "being_written", lambda folder: False)
    with somebody_writes(folder):
        (verdict,) = collect(tmp_path, Rules(), delete=True).verdicts
    assert (verdict.remove, verdict.why) == (False, "it is being written")
    assert Cache(folder).labels.shape == (50,)


@pytest.mark.parametrize("anew", [False, True], ids=["gone", "built anew by another"])
def test_a_builder_whose_cache_is_removed_as_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anew: bool
) -> None:
    """It opened the lock of a folder that is trash by the time it holds it: it starts anew."""
    from geocache.data import locks
    from geocache.data.sealed import parse_json

    folder = make_cache(tmp_path, "a", days=200)
    about = parse_json((folder / "zarr.json").read_bytes())["attributes"]["geocache"]
    try_lock, removed = locks._lock, []

    def late(descriptor: int, *, shared: bool, wait: bool, otherwise: bool) -> bool:
        if shared and not removed:
            removed.append(remove_cache(folder, "a" * 64))
            if anew:
                make_cache(tmp_path, "a")
        return try_lock(descriptor, shared=shared, wait=wait, otherwise=otherwise)

    monkeypatch.setattr(locks, "_lock", late)
    with writing(folder, about):
        assert removed[0][1] is None
        assert being_written(folder)
        assert Cache(folder).key == "a" * 64 and bool(Cache(folder).layouts) is anew
    assert not being_written(folder)


def test_a_builder_waits_for_whoever_is_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone is never for long, and a builder that is not counted could be cleaned away."""
    fcntl = pytest.importorskip("fcntl")
    flock, asked, asks = fcntl.flock, [], Event()

    def watched(descriptor: int, operation: int) -> None:
        asked.append(operation)
        asks.set()
        flock(descriptor, operation)

    objects = LocalObjects(make_cache(tmp_path, "a"))

    def begin() -> bool:
        with objects.writing() as held:
            return held

    with ThreadPoolExecutor(1) as pool:
        with objects.alone() as alone:
            assert alone
            monkeypatch.setattr(fcntl, "flock", watched)
            waiting = pool.submit(begin)
            asks.wait()
        assert waiting.result()
    assert asked == [fcntl.LOCK_SH]


def test_leftovers_of_what_stays_go(tmp_path: Path) -> None:
    folder = make_cache(tmp_path, "a", days=10)
    whole = every_file(folder)
    left = ("labels/.tmp-0123456789abcdef", "labels/c/7", "meta/claims/x")
    for key in left:
        (folder / key).parent.mkdir(exist_ok=True)
        (folder / key).write_bytes(b"12345")
    found = collect(tmp_path, Rules(), delete=True)
    assert sorted(leftover.key for leftover in found.leftovers) == sorted(left)
    assert found.n_bytes == 15
    after = every_file(folder)
    for locks_only in ("meta/lock", "meta/claims"):
        after.pop(locks_only, None)
        whole.pop(locks_only, None)
    assert after == whole


def test_trash_goes_and_what_only_looks_like_it_stays(tmp_path: Path) -> None:
    trash = tmp_path / (".trash-" + "a" * 20 + "-" + "0" * 16)
    (trash / "deep").mkdir(parents=True)
    (trash / "deep" / "file").write_bytes(b"123")
    (trash / "deep" / "file").chmod(0o444)
    mine = tmp_path / ".trash-mine"
    mine.mkdir()
    linked = tmp_path / (".trash-" + "b" * 20 + "-" + "1" * 16)
    linked.symlink_to(mine)
    found = collect(tmp_path, Rules(), delete=True)
    assert found.trash == (trash,) and found.n_bytes == 3
    assert not trash.exists() and mine.exists() and linked.is_symlink()


def test_a_link_to_a_cache_elsewhere_is_never_removed(tmp_path: Path) -> None:
    folder = make_cache(tmp_path / "elsewhere", "a", days=200)
    (tmp_path / "store").mkdir()
    link = tmp_path / "store" / folder.name
    link.symlink_to(folder)
    assert keys(tmp_path / "store") == "a"
    assert gone(tmp_path / "store", Rules(max_bytes=0)) == ""
    with pytest.raises(CacheError, match="got a link to"):
        remove_cache(link, "a" * 64)
    assert Cache(link).labels.shape == (50,)


class ReadOnly(Files):
    """A store that may not be written."""

    def rename(self, old: Path, new: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(old))


def test_a_read_only_store_says_so(tmp_path: Path) -> None:
    make_cache(tmp_path, "a", days=200)
    before = every_file(tmp_path)
    with using_files(ReadOnly()), pytest.raises(StorageError, match="Read-only file system"):
        collect(tmp_path, Rules(), delete=True)
    after = every_file(tmp_path)
    for name in [name for name in after if name.endswith("meta/lock")]:
        before.pop(name, None), after.pop(name)
    assert after == before


def test_an_absent_store_is_empty(tmp_path: Path) -> None:
    found = collect(tmp_path / "nowhere", Rules(), delete=True)
    assert found.verdicts == () and not (tmp_path / "nowhere").exists()


held = st.builds(
    Held,
    key=st.text("abcdef", min_size=8, max_size=8),
    path=st.just(Path("x")),
    n_bytes=st.integers(1, 1000),
    used_s=st.floats(0, 1000 * DAY),
    pinned=st.booleans(),
    busy=st.booleans(),
    link=st.booleans(),
)


@given(
    st.lists(held, max_size=12, unique_by=lambda cache: cache.key),
    st.integers(0, 3000),
    st.floats(0, 1000),
)
def test_choices_follow_the_rules(caches: list[Held], most: int, days: float) -> None:
    now = 1000 * DAY
    by_age = choose(caches, Rules(days * DAY), now)
    both = choose(caches, Rules(days * DAY, most), now)
    assert sorted(v.cache.key for v in both) == sorted(cache.key for cache in caches)
    for verdicts in (by_age, both):
        for v in verdicts:
            safe = v.cache.pinned or v.cache.busy or v.cache.link or now - v.cache.used_s <= 3600
            assert not (safe and v.remove)
    for v in by_age:
        assert not v.remove or now - v.cache.used_s > days * DAY
    assert {v.cache.key for v in by_age if v.remove} <= {v.cache.key for v in both if v.remove}
    left = [v.cache for v in both if not v.remove]
    free = [c for c in left if not (c.pinned or c.busy or c.link or now - c.used_s <= 3600)]
    assert not free or sum(c.n_bytes for c in left) <= most
    for_size = [v.cache for v in both if v.remove and now - v.cache.used_s <= days * DAY]
    if for_size and free:
        assert max(c.used_s for c in for_size) <= min(c.used_s for c in free)
        last = max(for_size, key=lambda c: (c.used_s, c.key))
        assert sum(c.n_bytes for c in left) + last.n_bytes > most
