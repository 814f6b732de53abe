"""Decode a row group's object without zarr's machinery: ten times faster for the same bytes.

What the objects hold is the Zarr specification's: a chunk is a zstd frame and the CRC-32C of it; a
shard is chunks, an index of (offset, length) pairs as little-endian 64-bit words, and the CRC-32C
of the index. zarr spends a few milliseconds an object on tasks and threads of its own, more than
the decoding of most takes; the reading threads of a loader cannot afford that. zarr writes, and
its own decoding is what the tests hold this one against.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from geocache.data.layout import ArrayLayout

__all__ = ["ChunkError", "decode_chunks"]

_CHECKSUM_BYTES = 4
_ABSENT = 2**64 - 1


class ChunkError(ValueError):
    """An object is not what the specification says; the caller knows which one."""


def decode_chunks(layout: ArrayLayout, n_rows: int, data: bytes) -> np.ndarray[Any, Any]:
    """Return the first `n_rows` rows of a group's object, which must not be bit-packed.

    Raises ChunkError when a checksum fails or a chunk is missing. O(bytes).
    """
    dtype = np.dtype(layout.dtype).newbyteorder("<")
    inner = layout.chunk_rows
    chunk_bytes = inner * math.prod(layout.row_shape) * dtype.itemsize
    if inner == layout.group_rows:
        chunks = [memoryview(data)]
    else:
        chunks = _cut(data, layout.group_rows // inner)[: -(-n_rows // inner)]
    out = np.empty(len(chunks) * chunk_bytes, np.uint8)
    for number, chunk in enumerate(chunks):
        _decompress(chunk, out[number * chunk_bytes :][:chunk_bytes])
    rows = out.view(dtype).reshape(-1, *layout.row_shape)[:n_rows]
    return rows.astype(dtype.newbyteorder("="), copy=False)


def _cut(data: bytes, n_chunks: int) -> list[memoryview]:
    """Return the chunks of a shard, by its index."""
    size = 16 * n_chunks + _CHECKSUM_BYTES
    if len(data) < size:
        raise ChunkError(f"a shard of {n_chunks} chunks has {len(data)} bytes")
    whole = memoryview(data)
    index = np.frombuffer(_checked(whole[-size:]), "<u8").reshape(-1, 2)
    return [
        whole[:0] if offset == _ABSENT else whole[offset : offset + length]
        for offset, length in index.tolist()
    ]


def _checked(data: memoryview) -> memoryview:
    """Return what stands before a trailing CRC-32C that fits it."""
    import google_crc32c  # zarr's own

    body, sum_ = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    if len(sum_) < _CHECKSUM_BYTES:
        raise ChunkError("a chunk is missing")
    # As an array, which it takes without a copy; of a memory view it takes none at all.
    computed = google_crc32c.value(np.frombuffer(body, np.uint8))
    stored = int.from_bytes(sum_, "little")
    if computed != stored:
        raise ChunkError(f"the checksum must be {stored:#010x}, got {computed:#010x}")
    return body


def _decompress(chunk: memoryview, out: np.ndarray[Any, Any]) -> None:
    from numcodecs import zstd

    try:
        zstd.decompress(_checked(chunk), out)
    except (RuntimeError, ValueError) as error:
        raise ChunkError(str(error)) from None
