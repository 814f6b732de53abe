"""The plan: every missing row group once, in units that share no object, and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from geocache.data.layout import UNIT_ROWS, ArrayLayout, Group
from geocache.pipeline.plan import missing_bytes, plan_units


@st.composite
def worlds(draw: st.DrawFn) -> tuple[dict[str, ArrayLayout], dict[str, dict], int]:
    """Some arrays, what is committed of them (whole or partial groups) and how far to go."""
    n_rows = draw(st.integers(1, 9000))
    layouts, committed = {}, {}
    for i in range(draw(st.integers(1, 4))):
        path = f"targets/l/{i}"
        layouts[path] = ArrayLayout(
            path, "uint8", n_rows, (2,), ("node",),
            bytes_per_row=draw(st.sampled_from([1, 2**15, 2**16, 2**18])),
            n_views=draw(st.sampled_from([None, 1, 2])),
        )  # fmt: skip
        groups = layouts[path].groups()
        done = draw(st.lists(st.sampled_from(groups), max_size=8))
        committed[path] = {
            (g.view, g.index): draw(st.sampled_from([g.stop - g.start, (g.stop - g.start) // 2]))
            for g in done
        }
    return layouts, committed, draw(st.integers(1, n_rows))


@given(worlds())
def test_a_plan_is_the_difference(
    world: tuple[dict[str, ArrayLayout], dict[str, dict], int],
) -> None:
    layouts, committed, stop = world
    units = plan_units(layouts.values(), committed, stop)
    planned = [(m.path, m.group) for unit in units for m in unit.missing]
    expected = {
        (path, group)
        for path, layout in layouts.items()
        for group in layout.groups(stop)
        if committed[path].get((group.view, group.index), 0) < group.stop - group.start
    }
    assert len(planned) == len(set(planned))
    assert set(planned) == expected
    assert missing_bytes(units, layouts) == sum(
        (g.stop - g.start) * layouts[p].bytes_per_row for p, g in expected
    )
    keys = [layouts[path].object_key(group) for path, group in planned]
    assert len(keys) == len(set(keys))


@given(worlds())
def test_units_are_disjoint_in_order_and_hold_their_groups(
    world: tuple[dict[str, ArrayLayout], dict[str, dict], int],
) -> None:
    layouts, committed, stop = world
    units = plan_units(layouts.values(), committed, stop)
    places = [(unit.view, unit.start) for unit in units]
    assert places == sorted(set(places))
    for unit in units:
        assert unit.start % UNIT_ROWS == 0
        assert 0 < unit.stop - unit.start <= UNIT_ROWS
        assert unit.stop <= stop
        assert unit.missing
        for missing in unit.missing:
            assert missing.group.view == unit.view
            assert unit.start <= missing.group.start < missing.group.stop <= unit.stop


@given(worlds())
def test_a_finished_plan_leaves_nothing(
    world: tuple[dict[str, ArrayLayout], dict[str, dict], int],
) -> None:
    layouts, committed, stop = world
    for unit in plan_units(layouts.values(), committed, stop):
        for missing in unit.missing:
            group: Group = missing.group
            committed[missing.path][group.view, group.index] = group.stop - group.start
    assert plan_units(layouts.values(), committed, stop) == []
