"""What builds that were cut off leave behind, and its removal.

Unfinished writes, objects that no receipt counts, receipts that a longer one has outgrown, and
announcements of objects that are in place. Nothing of it is ever read.
"""

from __future__ import annotations

from geocache.data.cache import Cache
from geocache.data.layout import ArrayLayout, Group

__all__ = ["find_leftovers", "remove_leftovers", "uncounted_objects"]


def find_leftovers(cache: Cache) -> list[str]:
    """Return the keys of a cache's leftovers, which are some only while nobody writes it."""
    found = cache.objects.unfinished()
    for layout in cache.layouts.values():
        found += [*uncounted_objects(cache, layout), *_outgrown(cache, layout)]
    return sorted(found)


def remove_leftovers(cache: Cache) -> list[str]:
    """Remove a cache's leftovers and return their keys; only while nobody else writes it."""
    removed = set(cache.objects.clean())
    for key in find_leftovers(cache):
        cache.objects.delete(key)
        removed.add(key)
    return sorted(removed)


def uncounted_objects(cache: Cache, layout: ArrayLayout) -> list[str]:
    """Return the objects of an array that no receipt counts."""
    counted = {
        layout.object_key(Group(view, index, 0, 0)) for view, index in cache.receipts(layout)
    }
    found = (key for key, _ in cache.objects.walk(f"{layout.path}/c"))
    return [key for key in found if key not in counted]


def _outgrown(cache: Cache, layout: ArrayLayout) -> list[str]:
    """Return receipts beside a longer one, and announcements of what its receipt describes."""
    keys = []
    names = cache.objects.names(layout.receipts)
    for (view, index), n_rows in cache.receipts(layout).items():
        group = Group(view, index, 0, n_rows)
        front = f"v{view}-g{index:06d}-"
        kept = layout.receipt_key(group).rpartition("/")[2]
        keys += [
            f"{layout.receipts}/{name}"
            for name in names
            if name.startswith(front) and name.endswith(".json") and name != kept
        ]
        announcement = layout.announcement_key(group)
        if announcement.rpartition("/")[2] in names and cache.counted(layout, group):
            keys.append(announcement)
    return keys
