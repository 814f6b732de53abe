"""Row groups cover every row once, stay within their bound, and plans are differences."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from geocache.data.layout import SMALL_UNIT_ROWS, UNIT_ROWS, ArrayLayout, chunk_rows, group_rows

n_bytes = st.one_of(st.integers(1, 10_000), st.integers(1, 2**31))
MAX_GROUP_BYTES = 64 * 2**20


@st.composite
def layouts(draw: st.DrawFn) -> ArrayLayout:
    small = draw(st.booleans())
    return ArrayLayout(
        path=draw(st.sampled_from(["logits", "targets/layer2/mst", "valid"])),
        dtype="uint8",
        n_rows=draw(st.integers(1, 20_000)),
        row_shape=(3,) if draw(st.booleans()) else (),
        row_axes=(),
        bytes_per_row=draw(n_bytes),
        n_views=draw(st.sampled_from([None, 1, 3])),
        unit_rows=SMALL_UNIT_ROWS if small else UNIT_ROWS,
    )


@given(layouts(), st.one_of(st.none(), st.integers(1, 25_000)))
def test_groups_cover_every_row_of_every_view_once(layout: ArrayLayout, stop: int | None) -> None:
    groups = layout.groups(stop)
    expected = layout.n_rows if stop is None else min(stop, layout.n_rows)
    for view in range(layout.n_views or 1):
        mine = [group for group in groups if group.view == view]
        assert [g.index for g in mine] == list(range(len(mine)))
        edges = [g.start for g in mine] + [expected]
        assert edges == sorted(set(edges))
        assert edges[0] == 0
        assert [g.stop for g in mine] == edges[1:]
        assert all(g.stop - g.start == layout.group_rows for g in mine[:-1])
    assert len({layout.object_key(g) for g in groups}) == len(groups)
    assert len({layout.receipt_key(g) for g in groups}) == len(groups)


@given(n_bytes, st.sampled_from([UNIT_ROWS, SMALL_UNIT_ROWS]))
def test_groups_and_chunks_stay_within_their_bounds(bytes_per_row: int, unit_rows: int) -> None:
    group, chunk = group_rows(bytes_per_row, unit_rows), chunk_rows(bytes_per_row, unit_rows)
    assert unit_rows % group == 0
    assert group % chunk == 0
    assert group == 1 or group * bytes_per_row <= MAX_GROUP_BYTES
    assert chunk == 1 or chunk * bytes_per_row <= 4 * 2**20
    # As large as the bound allows: half as many objects as with the next smaller size.
    assert group == unit_rows or 2 * group * bytes_per_row > MAX_GROUP_BYTES


@given(layouts(), st.integers(1, 20_000))
def test_a_limit_cuts_alike(layout: ArrayLayout, limit: int) -> None:
    whole = {(g.view, g.index): g for g in layout.groups()}
    for group in layout.groups(limit):
        other = whole[group.view, group.index]
        assert group.start == other.start
        assert layout.object_key(group) == layout.object_key(other)
        assert group.stop in (other.stop, limit)


def test_shape_axes_and_keys() -> None:
    layout = ArrayLayout("targets/layer2/mst", "uint8", 5000, (256,), ("node",), 256, n_views=2)
    assert layout.shape == (2, 5000, 256)
    assert layout.axes == ("view", "row", "node")
    group = layout.groups()[-1]
    assert (group.view, group.index, group.start, group.stop) == (1, 2, 4096, 5000)
    assert layout.object_key(group) == "targets/layer2/mst/c/1/2/0"
    assert layout.receipt_key(group) == ("meta/receipts/targets/layer2/mst/v1-g000002-r000904.json")
    flat = dataclasses.replace(layout, path="labels", row_shape=(), row_axes=(), n_views=None)
    assert flat.shape == (5000,)
    assert flat.object_key(flat.groups()[1]) == "labels/c/1"
