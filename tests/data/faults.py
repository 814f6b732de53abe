"""A small real cache, and every kind of damage that can come over one of its objects."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from geocache.data.datasets import open_dataset
from geocache.pipeline.build import BuildRequest, build
from geocache.targets import parse_target

TARGETS = (
    "logits", "logits:top=2,temperature=4", "mst@layer1", "affinity:radius=2,5@layer1",
    "mst@layer2", "affinity:radius=2@layer2", "knn:k=4@layer2",
)  # fmt: skip


@dataclass(frozen=True)
class Whole:
    """A cache as it was built, and what from."""

    path: Path
    request: BuildRequest
    files: dict[str, bytes]

    @property
    def objects(self) -> dict[str, bytes]:
        """Every object; the lock file is none."""
        return {key: data for key, data in self.files.items() if key != "meta/lock"}


def build_whole(store: Path) -> Whole:
    """Build a cache of 60 rows, two layers, and an evaluation split; arrays have several groups."""
    options = {"n": 60, "size": 8, "classes": 3}
    request = BuildRequest(
        dataset=open_dataset("fakedata", split="train", options=options),
        evaluation=open_dataset("fakedata", split="test", options={**options, "n": 20}),
        model="resnet20",
        targets=tuple(target for text in TARGETS for target in parse_target(text)),
        store=store,
        executor="serial",
        n_threads=1,
    )
    report = build(request)
    assert report.failures == ()
    assert isinstance(report.path, Path)
    return Whole(report.path, request, contents(report.path))


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a cache by its key."""
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


@contextmanager
def damaged(path: Path, key: str, data: bytes | None) -> Iterator[None]:
    """Put other bytes in an object's place, or none; afterwards it is as it was."""
    file = path / key
    before, mode = file.read_bytes(), file.stat().st_mode
    file.unlink()
    if data is not None:
        file.write_bytes(data)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        file.write_bytes(before)
        file.chmod(mode)


def flipped(data: bytes, bit: int) -> bytes:
    """Return the bytes with one bit the other way."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def bits_to_flip(key: str, data: bytes, few: int, small: int) -> list[int]:
    """Return a bit of every byte, of an object larger than `small` its ends and `few` others."""
    draw = random.Random(key)
    if len(data) <= small:
        places = list(range(len(data)))
    else:
        places = [0, len(data) - 1, *draw.sample(range(1, len(data) - 1), few)]
    return [8 * place + draw.randrange(8) for place in places]


def lengths(data: bytes, n_chunks: int) -> list[int]:
    """Return what to cut an object to; n_chunks: of a shard, which is also cut after its first."""
    found = {0, 1, len(data) // 2, len(data) - 1}
    if n_chunks > 1:
        # A shard ends in its index, offset and length of each chunk, and 4 bytes of checksum.
        index = data[-16 * n_chunks - 4 : -4]
        offset, length = struct.unpack("<QQ", index[:16])
        found.add(offset + length)
    return sorted(found)


def class_of(key: str) -> str:
    """Return what kind of object this is."""
    if key == "zarr.json":
        return "root"
    for front, name in (("meta/arrays/", "layout"), ("meta/receipts/", "receipt")):
        if key.startswith(front):
            return name
    if re.search(r"/c/\d", key):
        return "rows of " + re.sub(r"/c/.*", "", re.sub(r"^eval/[^/]+", "eval", key))
    return "published document"


def array_of(key: str) -> str:
    """Return the array that an object belongs to; a group's document and the root are their own."""
    if class_of(key).startswith("rows of"):
        return key.rpartition("/c/")[0]
    folder = key.rpartition("/")[0]
    return folder.removeprefix("meta/arrays/").removeprefix("meta/receipts/")
