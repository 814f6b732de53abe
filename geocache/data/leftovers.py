"""What builds that were cut off leave behind, and its removal.

Unfinished writes, objects that no receipt counts, receipts that a longer one has outgrown, and
replacements that were announced: those are finished where their object is in place.
"""

from __future__ import annotations

import re

from geocache.data.cache import Cache
from geocache.data.layout import ArrayLayout, Group
from geocache.data.writer import finish_announced

__all__ = ["find_leftovers", "remove_leftovers", "uncounted_objects"]


def find_leftovers(cache: Cache) -> list[str]:
    """Return the keys of a cache's leftovers, which are some only while nobody writes it."""
    found = cache.objects.unfinished()
    for layout in cache.layouts.values():
        found += [*uncounted_objects(cache, layout), *_outgrown(cache, layout)]
    return sorted(found)


_ANNOUNCEMENT = re.compile(r"v(\d+)-g(\d{6})\.next")


def remove_leftovers(cache: Cache) -> list[str]:
    """Remove a cache's leftovers and return their keys; only while nobody else writes it."""
    removed = set(cache.objects.clean())
    for layout in cache.layouts.values():
        removed.update(_announcements(cache, layout))
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


def _announcements(cache: Cache, layout: ArrayLayout) -> list[str]:
    """Finish the replacements that are announced, and return what announced them."""
    found = (_ANNOUNCEMENT.fullmatch(name) for name in cache.objects.names(layout.receipts))
    groups = [Group(int(match[1]), int(match[2]), 0, 0) for match in found if match]
    for group in groups:
        finish_announced(cache.objects, layout, group)
    return [layout.announcement_key(group) for group in groups]


def _outgrown(cache: Cache, layout: ArrayLayout) -> list[str]:
    """Return receipts beside a longer one."""
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
    return keys
