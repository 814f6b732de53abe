"""Which rows of a cache count: what the names of its receipts say, and what they say of bad rows.

Names alone tell how far an array is built, so a list of them is enough; a receipt itself is opened
where its object is held against it (`geocache.data.row_reader`) or where rows were left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from geocache.data.ahead import map_ahead
from geocache.data.layout import ArrayLayout, Group
from geocache.data.listing import Listing
from geocache.data.objects import Objects
from geocache.data.sealed import unseal
from geocache.errors import CacheError

__all__ = ["Receipts", "receipt_rows", "requests_at_once"]

_RECEIPT = re.compile(r"v([0-9]{1,9})-g([0-9]{6,12})-r([0-9]{6,12})\.json")
_REQUESTS = 8
"""Requests under way at once where the cache stands in a bucket."""


def requests_at_once(objects: Objects) -> int:
    """Return how many objects are worth asking for side by side: one where a disk gives them."""
    return _REQUESTS if objects.distant else 1


def receipt_rows(names: Iterable[str], layout: ArrayLayout) -> dict[tuple[int, int], int]:
    """Return the rows of each (view, group) that receipts of these names count.

    Names that fit no row group of the array are no receipts.
    """
    size, n_views = layout.group_rows, layout.n_views or 1
    rows: dict[tuple[int, int], int] = {}
    for name in names:
        match = _RECEIPT.fullmatch(name)
        if match:
            view, group, count = map(int, match.groups())
            if view < n_views and 0 < count <= min(size, layout.n_rows - group * size):
                rows[view, group] = max(count, rows.get((view, group), 0))
    return rows


class Receipts:
    """The receipts of a cache: in a folder they are listed each time, in a bucket once."""

    def __init__(self, objects: Objects) -> None:
        """List nothing yet."""
        self._objects = objects
        self.listing = Listing(objects, "meta")

    def rows(self, layout: ArrayLayout) -> dict[tuple[int, int], int]:
        """Return the committed rows of each (view, group) of an array."""
        return receipt_rows(self.listing.names(layout.receipts), layout)

    def front(self, layout: ArrayLayout, n_views: int | None = None) -> int:
        """Return how many rows count from the front on, in the first `n_views` or in all views."""
        rows = self.rows(layout)
        held = layout.n_views or 1
        wanted = held if n_views is None or layout.n_views is None else n_views
        if wanted > held:
            return 0
        size = layout.group_rows
        fronts = []
        for view in range(wanted):
            front = 0
            while front < layout.n_rows and front % size == 0:
                count = rows.get((view, front // size), 0)
                front += count
                if not count:
                    break
            fronts.append(front)
        return min(fronts)

    def left_out(self, layout: ArrayLayout) -> dict[int, str]:
        """Return the rows whose image could not be read when they were committed, and why.

        Raises CacheError where a receipt is missing or damaged, unless a builder replaces it.
        """
        while True:
            held = self.rows(layout)
            try:
                return self._notes(layout, held)
            except CacheError:
                if self.rows(layout) == held:
                    raise

    def _notes(self, layout: ArrayLayout, held: Mapping[tuple[int, int], int]) -> dict[int, str]:
        bad: dict[int, str] = {}
        groups = (Group(view, index, 0, n_rows) for (view, index), n_rows in held.items())
        keys = [layout.receipt_key(group) for group in groups]
        receipts = map_ahead(self._objects.get, keys, requests_at_once(self._objects))
        for key, data in zip(keys, receipts, strict=True):
            notes = unseal(data, key).get("bad", {})
            try:
                bad.update({int(row): str(why) for row, why in notes.items()})
            except (ValueError, AttributeError):
                raise CacheError(
                    f"receipt '{key}' must name rows under `bad`, got something else "
                    f"({self._objects.root}). Build the cache again."
                ) from None
        return bad
