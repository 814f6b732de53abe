"""Hold an encoded row group against its size before anything is decoded.

Zstandard expands a few kilobytes to gigabytes if it is let. Each frame must declare its content's
size (RFC 8878, section 3.1.1.1.4), and it must be that of a chunk; the decoder then allocates just
that and refuses more. A shard's index must point into the shard, at every chunk that is asked for:
a chunk that is missing would read as zeros.
"""

from __future__ import annotations

import numpy as np

from geocache.data.layout import ArrayLayout, Group

__all__ = ["check_frames", "content_size"]

_MAGIC = b"\x28\xb5\x2f\xfd"
_CHECKSUM_BYTES = 4
_ABSENT = 2**64 - 1


def check_frames(layout: ArrayLayout, group: Group, data: bytes) -> None:
    """Raise ValueError unless every chunk of a group's object decodes to a chunk's bytes."""
    expected = _chunk_bytes(layout)
    if layout.chunk_rows == layout.group_rows:
        spans = [(0, len(data))]
    else:
        spans = _spans(layout, group, data)
    for start, stop in spans:
        found = content_size(data, start, stop - _CHECKSUM_BYTES)
        if found != expected:
            raise ValueError(f"a chunk must hold {expected} bytes, got {found or 'no size'}")


def content_size(data: bytes, start: int, stop: int) -> int | None:
    """Return the content size that a Zstandard frame declares, None where it declares none.

    Raises ValueError for what is no frame.
    """
    if data[start : start + 4] != _MAGIC or stop - start < 6:
        raise ValueError("a chunk must be a Zstandard frame")
    descriptor = data[start + 4]
    if descriptor & 0b1011:  # A reserved bit, or a dictionary that nobody has.
        raise ValueError("a chunk must be a plain Zstandard frame")
    single = bool(descriptor & 0b100000)
    flag = descriptor >> 6
    n_bytes = (1 if single else 0, 2, 4, 8)[flag]
    at = start + 5 + (not single)
    if n_bytes == 0:
        return None
    if at + n_bytes > stop:
        raise ValueError("a chunk's Zstandard frame is cut")
    return int.from_bytes(data[at : at + n_bytes], "little") + (256 if flag == 1 else 0)


def _chunk_bytes(layout: ArrayLayout) -> int:
    n_values = layout.chunk_rows * int(np.prod(layout.row_shape, dtype=np.int64))
    if layout.packed:  # One byte says how many bits fill the last one.
        return 1 + -(-n_values // 8)
    return n_values * np.dtype(layout.dtype).itemsize


def _spans(layout: ArrayLayout, group: Group, data: bytes) -> list[tuple[int, int]]:
    """Return where a shard's chunks stand in it, as its index says."""
    n_chunks = layout.group_rows // layout.chunk_rows
    index_bytes = 16 * n_chunks + _CHECKSUM_BYTES
    front = len(data) - index_bytes
    if front < 0:
        raise ValueError(f"a shard must end in an index of {index_bytes} bytes, got {len(data)}")
    index = np.frombuffer(data, "<u8", 2 * n_chunks, front).reshape(n_chunks, 2).tolist()
    needed = -(-(group.stop - group.start) // layout.chunk_rows)
    spans = []
    for number, (offset, length) in enumerate(index):
        if (offset, length) == (_ABSENT, _ABSENT):
            if number < needed:
                raise ValueError(f"chunk {number} is missing from its shard")
        elif offset + length > front or length <= _CHECKSUM_BYTES:
            raise ValueError(f"chunk {number} must lie in its shard")
        else:
            spans.append((offset, offset + length))
    return spans
