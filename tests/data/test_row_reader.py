"""An object is hashed once; what has changed since is held against its receipt again."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from geocache.data.cache import Cache
from geocache.data.files import Files, using_files
from geocache.data.layout import ArrayLayout, Group
from geocache.data.marks import SETTLED_NS, Mark, mark_of
from geocache.data.sealed import seal, unseal
from geocache.data.verify import verify_objects
from geocache.data.writer import CacheWriter, create_cache, small_layout
from geocache.errors import CacheError

N_ROWS, GROUP_ROWS = 12, 4
NAME = "l/mst"
ABOUT = {
    "key": "k" * 64,
    "identity": {"format": 1, "teacher": {"mean": [0.5] * 3, "std": [0.2] * 3}},
    "classes": ["a", "b"],
    "n_rows": N_ROWS,
    "image_shape": [8, 8, 3],
    "probe": [[1.0]],
}
pytestmark = pytest.mark.skipif(os.name == "nt", reason="files have no marks on Windows")


class Later(Files):
    """An hour from now, when what has just been written has been left alone for long."""

    def now_ns(self) -> int:
        return super().now_ns() + 3600 * 10**9


class Decayed(Later):
    """A disk that gives other bytes for one file, and knows nothing of a change."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path, self.data = path, data

    def read_marked(self, path: Path) -> tuple[bytes, Mark | None]:
        data, mark = super().read_marked(path)
        return (self.data if path == self.path else data), mark


def layout_of(chunk_rows: int = GROUP_ROWS) -> ArrayLayout:
    return ArrayLayout(
        "targets/l/mst", "uint8", N_ROWS, (30,), ("node",), 30,
        attributes={"geocache": {"kind": "mst"}}, sizes=(GROUP_ROWS, chunk_rows),
    )  # fmt: skip


def rows_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (N_ROWS, 30)).astype(np.uint8)


def commit(path: Path, layout: ArrayLayout, index: int, n_rows: int = GROUP_ROWS) -> None:
    start = index * GROUP_ROWS
    group = Group(0, index, start, start + n_rows)
    CacheWriter(path, {}).commit(layout, group, rows_of(0)[start : start + n_rows])


@pytest.fixture(params=[GROUP_ROWS, 2], ids=["chunk", "shard"])
def layout(request: pytest.FixtureRequest) -> ArrayLayout:
    return layout_of(request.param)


@pytest.fixture
def path(tmp_path: Path, layout: ArrayLayout) -> Iterator[Path]:
    """A cache of two whole row groups and two rows of the third, settled."""
    path = tmp_path / "cache.zarr"
    create_cache(path, ABOUT)
    CacheWriter(path, {}).declare(layout)
    for index, n_rows in enumerate((GROUP_ROWS, GROUP_ROWS, 2)):
        commit(path, layout, index, n_rows)
    with using_files(Later()):
        yield path


@pytest.fixture
def cache(path: Path) -> Cache:
    """The cache, its first group read once."""
    cache = Cache(path)
    assert np.array_equal(cache.read(NAME, 0, GROUP_ROWS), rows_of(0)[:GROUP_ROWS])
    assert cache.reader.n_hashed == 1
    return cache


def files_of(path: Path, layout: ArrayLayout) -> list[Path]:
    return [path / layout.object_key(group) for group in layout.groups()]


def write_in_place(file: Path, data: bytes) -> None:
    """Overwrite a file and set its times back; its ctime goes on with the clock's next tick."""
    before = file.stat()
    file.chmod(0o644)
    while file.stat().st_ctime_ns == before.st_ctime_ns or file.read_bytes() != data:
        file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_has_not_changed_is_hashed_once(cache: Cache) -> None:
    for _ in range(3):
        assert np.array_equal(cache.read(NAME, 0, 10), rows_of(0)[:10])
        assert np.array_equal(cache.read(NAME, 5, 7), rows_of(0)[5:7])
    assert cache.reader.n_hashed == 3
    assert np.array_equal(Cache(cache.path).read(NAME, 0, 10), rows_of(0)[:10])


def test_what_changed_a_moment_ago_is_hashed_again(cache: Cache, layout: ArrayLayout) -> None:
    """It may change once more before the clock of its file system goes on."""
    changed_ns = files_of(cache.path, layout)[0].stat().st_ctime_ns

    class At(Files):
        def __init__(self, moment_ns: int) -> None:
            self.moment_ns = moment_ns

        def now_ns(self) -> int:
            return self.moment_ns

    for moment_ns, n_hashed in ((changed_ns, 2), (changed_ns + SETTLED_NS, 2), (2**62, 1)):
        fresh = Cache(cache.path)
        with using_files(At(moment_ns)):
            fresh.read(NAME, 0, 2)
            fresh.read(NAME, 0, 2)
        assert fresh.reader.n_hashed == n_hashed


def test_an_exchanged_object_is_found_after_the_first_read(
    cache: Cache, layout: ArrayLayout
) -> None:
    first, second, _ = files_of(cache.path, layout)
    assert first.stat().st_size == second.stat().st_size
    stranger = first.with_name("stranger")
    stranger.write_bytes(second.read_bytes())
    times = first.stat()
    os.utime(stranger, ns=(times.st_atime_ns, times.st_mtime_ns))
    stranger.replace(first)
    with pytest.raises(CacheError, match="not the one that its receipt describes"):
        cache.read(NAME, 0, GROUP_ROWS)


def test_an_object_overwritten_in_place_is_found(cache: Cache, layout: ArrayLayout) -> None:
    first, second, _ = files_of(cache.path, layout)
    good = first.read_bytes()
    write_in_place(first, second.read_bytes())
    with pytest.raises(CacheError, match="not the one that its receipt describes"):
        cache.read(NAME, 0, GROUP_ROWS)
    write_in_place(first, good)
    assert np.array_equal(cache.read(NAME, 0, GROUP_ROWS), rows_of(0)[:GROUP_ROWS])


def test_bits_that_decay_unnoticed_are_found(cache: Cache, layout: ArrayLayout) -> None:
    """No mark tells of them: the codecs' checksums do, and the message is the usual one."""
    file = files_of(cache.path, layout)[0]
    good = file.read_bytes()
    key = layout.object_key(layout.groups()[0])
    says = (
        rf"'{key}' is damaged: it is not the one .*\(rows 0 to 3, cache kkk.*verify kkk.* --repair"
    )
    for at in range(len(good)):
        bad = bytes([*good[:at], good[at] ^ 1 << at % 8, *good[at + 1 :]])
        with using_files(Decayed(file, bad)), pytest.raises(CacheError, match=says):
            cache.read(NAME, 0, GROUP_ROWS)
    assert np.array_equal(cache.read(NAME, 0, GROUP_ROWS), rows_of(0)[:GROUP_ROWS])


def test_verify_hashes_whatever_the_marks_say(cache: Cache, layout: ArrayLayout) -> None:
    first, second, _ = files_of(cache.path, layout)
    with using_files(Decayed(first, second.read_bytes())):
        damage = {finding.key for finding in verify_objects(cache.path).damage}
    assert layout.object_key(layout.groups()[0]) in damage


def test_a_group_that_grows_is_held_against_its_new_receipt(
    cache: Cache, layout: ArrayLayout
) -> None:
    cache.read(NAME, 8, 10)
    commit(cache.path, layout, 2)
    n_hashed = cache.reader.n_hashed
    for stop in (10, 10, 10, 12, 12):
        assert np.array_equal(cache.read(NAME, 8, stop), rows_of(0)[8:stop])
    # Once where the old receipt does not describe it, once where the new one does.
    assert cache.reader.n_hashed == n_hashed + 2


def test_corrected_labels_are_held_against_their_new_receipt(path: Path) -> None:
    writer = CacheWriter(path, {})
    labels = np.arange(N_ROWS)
    writer.replace(small_layout("labels", labels), labels)
    cache = Cache(path)
    for number, shown in enumerate((labels, labels[::-1].copy(), labels)):
        writer.replace(small_layout("labels", shown), shown)
        assert np.array_equal(cache.read("labels", 0, N_ROWS), shown)
        assert np.array_equal(cache.read("labels", 0, N_ROWS), shown)
        assert cache.reader.n_hashed == number + 1


def test_a_mark_vouches_for_one_receipt_alone(cache: Cache, layout: ArrayLayout) -> None:
    """A longer receipt of another object is not believed for the sake of a short one."""
    cache.read(NAME, 8, 10)
    short, long = (layout.receipt_key(Group(0, 2, 8, stop)) for stop in (10, 12))
    document = unseal(cache.objects.get(short), short)
    document["rows"] = [8, 12]
    document["objects"][layout.object_key(layout.groups()[2])]["sha256"] = "0" * 64
    cache.objects.put(long, seal(document))
    with pytest.raises(CacheError, match="not the one that its receipt describes"):
        cache.read(NAME, 8, 12)


def test_a_mark_is_of_everything_that_a_status_tells(path: Path) -> None:
    status = (path / "zarr.json").stat()
    late = status.st_ctime_ns + SETTLED_NS + 1
    mark = mark_of(status, status, late)
    assert mark is not None
    assert mark_of(status, status, late - 1) is None
    told = ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
    for name in told:
        other = Status(**{n: getattr(status, n) - (n == name) for n in told})
        assert mark_of(status, other, late) is None  # type: ignore[arg-type]
        assert mark_of(other, other, late) not in (None, mark)  # type: ignore[arg-type]


@dataclasses.dataclass
class Status:
    """What is asked of a status."""

    st_dev: int
    st_ino: int
    st_size: int
    st_mtime_ns: int
    st_ctime_ns: int
