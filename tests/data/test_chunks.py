"""Decoding without zarr gives what zarr gives, and refuses what is damaged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geocache.data import store
from geocache.data.chunks import ChunkError, decode_chunks
from geocache.data.layout import ArrayLayout, Group

DTYPES = ("uint8", "int16", "uint16", "float16", "float32", "int64", "bool")


def _layout(dtype: str, sizes: tuple[int, int], n_rows: int, n_views: int | None) -> ArrayLayout:
    return ArrayLayout(
        path="targets/x", dtype=dtype, n_rows=n_rows, row_shape=(3, 2), row_axes=("a", "b"),
        bytes_per_row=6 * np.dtype(dtype).itemsize, n_views=n_views, sizes=sizes,
    )  # fmt: skip


def _object(layout: ArrayLayout, group: Group) -> tuple[np.ndarray[Any, Any], bytes]:
    rng = np.random.default_rng(group.index)
    rows = rng.integers(0, 2, (group.stop - group.start, 3, 2)).astype(layout.dtype)
    return rows, next(iter(store.encode_group(layout, group, rows).values()))


@given(
    dtype=st.sampled_from(DTYPES),
    sizes=st.sampled_from([(8, 8), (8, 4), (8, 1), (16, 2)]),
    n_rows=st.integers(1, 40),
    n_views=st.sampled_from([None, 2]),
)
def test_every_group_is_decoded_as_zarr_does(
    dtype: str, sizes: tuple[int, int], n_rows: int, n_views: int | None
) -> None:
    layout = _layout(dtype, sizes, n_rows, n_views)
    for group in layout.groups():
        rows, data = _object(layout, group)
        ours = decode_chunks(layout, group.stop - group.start, data)
        assert ours.dtype == rows.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(ours, rows)
        np.testing.assert_array_equal(store._decoded_by_zarr(layout, group, data), rows)


@pytest.mark.parametrize("sizes", [(8, 8), (8, 2)])
def test_no_damage_goes_unseen(sizes: tuple[int, int]) -> None:
    """Every byte flipped in turn, and every length cut."""
    layout = _layout("uint8", sizes, 8, None)
    _, data = _object(layout, layout.groups()[0])
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        with pytest.raises(ChunkError):
            decode_chunks(layout, 8, bytes(damaged))
        with pytest.raises(ChunkError):
            decode_chunks(layout, 8, data[:at])


def test_a_chunk_that_was_never_written_is_an_error_and_no_zeros() -> None:
    """A partial group holds the chunks of its rows alone."""
    layout = _layout("uint8", (8, 2), 8, None)
    _, data = _object(layout, Group(0, 0, 0, 8))
    short = _layout("uint8", (8, 2), 3, None)
    _, front = _object(short, Group(0, 0, 0, 3))
    assert len(front) < len(data)
    with pytest.raises(ChunkError, match="missing"):
        decode_chunks(layout, 8, front)
