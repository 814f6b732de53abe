"""Objects that expand: refused by what their frames declare, before anything is decoded."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numcodecs.zstd
import numpy as np
import pytest
from stores import make_cache

from geocache.data.frames import content_size
from geocache.data.layout import SMALL_UNIT_ROWS, ArrayLayout
from geocache.data.sealed import seal, unseal
from geocache.data.store import (
    checksum,
    decode_group,
    encode_group,
)
from geocache.data.writer import CacheWriter, describe, root_metadata
from geocache.errors import CacheError

WHOLE = ArrayLayout("targets/l/x", "float32", 50, (4,), ("node",), 16)
SHARDED = ArrayLayout("targets/l/x", "float32", 300, (4,), ("node",), 2**15)
PACKED = ArrayLayout("targets/l/x", "bool", 50, (4, 4), ("node", "other"), 2, 1, packed=True)
SMALL = ArrayLayout("labels", "int64", 50, (), (), 8, unit_rows=SMALL_UNIT_ROWS)
each = pytest.mark.parametrize("layout", [WHOLE, SHARDED, PACKED, SMALL])


def frame(n_bytes: int, declared: int | None) -> bytes:
    """Return a valid Zstandard frame of zeros in run blocks, which declares what it likes."""
    head = b"\x28\xb5\x2f\xfd" + (b"\x00\x58" if declared is None else b"\xc0\x58")
    if declared is not None:
        head += struct.pack("<Q", declared)
    blocks, left = [], n_bytes
    while left:
        size = min(left, 2**17)
        left -= size
        blocks.append((size << 3 | 1 << 1 | (not left)).to_bytes(3, "little") + b"\0")
    return head + b"".join(blocks)


def with_checksum(data: bytes) -> bytes:
    return data + checksum(data).to_bytes(4, "little")


def test_the_frames_are_what_they_stand_for() -> None:
    assert numcodecs.zstd.decompress(frame(300_000, 300_000)) == bytes(300_000)
    assert content_size(frame(7, 7), 0, len(frame(7, 7))) == 7
    assert content_size(frame(7, None), 0, len(frame(7, None))) is None
    for n in (1, 255, 256, 300, 65_791, 65_792, 70_000, 2**20):
        data = bytes(numcodecs.zstd.compress(bytes(n), 3))
        assert content_size(data, 0, len(data)) == n


def chunk_bytes(layout: ArrayLayout) -> int:
    values = layout.chunk_rows * int(np.prod(layout.row_shape))
    return 1 + -(-values // 8) if layout.packed else values * np.dtype(layout.dtype).itemsize


def holding(layout: ArrayLayout, chunk: bytes) -> bytes:
    """Return an object of one group whose every chunk is this one."""
    if layout.chunk_rows == layout.group_rows:
        return with_checksum(chunk)
    n_chunks = layout.group_rows // layout.chunk_rows
    one = with_checksum(chunk)
    return one + with_checksum(struct.pack("<QQ", 0, len(one)) * n_chunks)


@each
def test_frames_of_another_size_are_refused(layout: ArrayLayout) -> None:
    group, size = layout.groups()[0], chunk_bytes(layout)
    zeros = decode_group(layout, group, holding(layout, frame(size, size)))
    assert not zeros.any() and zeros.shape == (group.stop - group.start, *layout.row_shape)
    for chunk in (
        frame(size, None),
        frame(size, 10**10),
        frame(size, 2**64 - 1),
        frame(size, 2**64 - 2),
        frame(size, size - 1),
        frame(size + 1, size),
        frame(2**28, size),
        frame(size, size)[:9],
        frame(size, size) + frame(size, size),
        b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + b"skip" + frame(size, size),
        b"\x28\xb5\x2f\xfd\x01\x00\x00\x00",
        b"",
    ):
        with pytest.raises(CacheError, match=f"object '{layout.object_key(group)}' is damaged"):
            decode_group(layout, group, holding(layout, chunk))


def test_a_shards_index_that_lies() -> None:
    group, size = SHARDED.groups()[0], chunk_bytes(SHARDED)
    one = with_checksum(frame(size, size))
    n_chunks = SHARDED.group_rows // SHARDED.chunk_rows
    good = [(0, len(one))] * n_chunks
    decode_group(SHARDED, group, one + index_of(good))
    for place in (
        (2**64 - 1, 2**64 - 1), (2**63, 2**63), (0, 2**64 - 1), (len(one), len(one)), (1, len(one)),
        (0, 0), (0, 4), (2**64 - 1, len(one)),
    ):  # fmt: skip
        with pytest.raises(CacheError, match="is damaged"):
            decode_group(SHARDED, group, one + index_of([place, *good[1:]]))


def index_of(places: list[tuple[int, int]]) -> bytes:
    return with_checksum(b"".join(struct.pack("<QQ", *place) for place in places))


@each
def test_what_was_written_honestly_is_read(layout: ArrayLayout) -> None:
    for group in layout.groups():
        rows = np.ones((group.stop - group.start, *layout.row_shape), layout.dtype)
        (data,) = encode_group(layout, group, rows).values()
        assert np.array_equal(decode_group(layout, group, data), rows)


def plant(folder: Path, layout: ArrayLayout, data: bytes) -> None:
    """Put a whole, receipted array with one object of ours into a cache."""
    writer = CacheWriter(folder, {})
    writer.declare(layout)
    (group,) = layout.groups()
    writer.commit(layout, group, np.zeros((50, *layout.row_shape), layout.dtype))
    key = layout.receipt_key(group)
    receipt = unseal(writer.objects.get(key), key)
    described = describe(data)
    receipt["objects"] = {layout.object_key(group): described}
    writer.objects.put(key, seal(receipt))
    writer.objects.put(layout.object_key(group), data)


READER = """
import json, resource, sys
from pathlib import Path
from geocache.data.cache import Cache
from geocache.errors import CacheError
pages = int(Path("/proc/self/statm").read_text().split()[0])
most = pages * resource.getpagesize() + 2**28
resource.setrlimit(resource.RLIMIT_AS, (most, most))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
said = {}
for folder in sys.argv[1:]:
    try:
        cache = Cache(Path(folder))
        cache.layouts, cache.labels
        cache.read("l/x", 0, 50)
        said[Path(folder).parent.name] = "read"
    except CacheError as error:
        said[Path(folder).parent.name] = str(error)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
print(json.dumps({"said": said, "grown_mb": grown}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_bombs_are_refused_within_256_mb(tmp_path: Path) -> None:
    """Each would take 10 GB or more; the reader may have 256 MB beyond what it starts with."""
    size = chunk_bytes(WHOLE)
    bombs = {
        "honest": holding(WHOLE, frame(size, size)),
        "declares": holding(WHOLE, frame(size, 10**10)),
        "expands": holding(WHOLE, frame(10**10, size)),
        "hides": holding(WHOLE, frame(10**10, None)),
    }
    for name, data in bombs.items():
        plant(make_cache(tmp_path / name, "a"), WHOLE, data)
    sparse = make_cache(tmp_path / "sparse", "a")
    plant(sparse, WHOLE, bombs["honest"])
    os.truncate(sparse / WHOLE.object_key(WHOLE.groups()[0]), 10**10)
    document = make_cache(tmp_path / "document", "a")
    plant(document, WHOLE, bombs["honest"])
    os.truncate(document / "meta" / "arrays" / WHOLE.path / "zarr.json", 10**10)
    root = make_cache(tmp_path / "root", "a")
    os.truncate(root / "zarr.json", 10**10)
    rows = make_cache(tmp_path / "rows", "a", n_rows=50)
    about = json.loads((rows / "zarr.json").read_text())["attributes"]["geocache"]
    (rows / "zarr.json").write_bytes(root_metadata(about | {"n_rows": 2**39}))
    folders = sorted(str(path.parent) for path in tmp_path.glob("*/*.zarr/zarr.json"))
    child = subprocess.run(
        [sys.executable, "-c", READER, *folders], capture_output=True, text=True, timeout=300
    )
    assert child.returncode == 0, child.stderr[-2000:]
    result = json.loads(child.stdout)
    said = result["said"]
    assert said.pop("honest") == "read"
    assert set(said) == {"declares", "expands", "hides", "sparse", "document", "root", "rows"}
    for name in ("declares", "expands", "hides"):
        assert "object 'targets/l/x/c/0/0' is damaged" in said[name]
    for name in ("sparse", "document", "root"):
        assert "must be a plain file of at most" in said[name]
    assert "rows, the cache" in said["rows"]
    assert result["grown_mb"] < 256
