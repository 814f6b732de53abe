"""Verify a cache: hold every object against what vouches for it, and say what does not fit.

An object is vouched for by the receipt of its row group, a receipt by its own seal and its name, an
array's layout by the digest in its receipts, the published copy by the layout, a group's document
by being always the same, and the root by its own digest, by the key that follows from its identity
and by the folder's name. Nothing is written. Checksums are no signatures: they find accidents.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from geocache.data.documents import (
    array_paths,
    check_groups,
    check_root,
    check_samples,
    grows,
    parse_name,
    parse_receipt,
    receipt_fits,
    right_layout,
)
from geocache.data.findings import ROWS_ARRAYS, Depth, Finding, Findings, Look, Tell, repair_of
from geocache.data.labels import LABEL
from geocache.data.layout import ArrayLayout, Group
from geocache.data.objects import Address, Objects, open_objects
from geocache.data.sealed import unseal
from geocache.data.store import layout_digest, layout_from
from geocache.data.usage import STAMP
from geocache.data.writer import describe
from geocache.errors import CacheError

__all__ = ["Depth", "Finding", "Findings", "verify_objects"]

_T = TypeVar("_T")
_R = TypeVar("_R")

_READERS = 8
"""Objects read at once; a row group is at most 64 MiB, so half a gigabyte bounds the memory."""


def verify_objects(
    address: Address, *, depth: Depth = "full", progress: Tell | None = None
) -> Findings:
    """Check every object of the cache at an address; O(bytes), a few objects in memory at a time.

    depth: `quick` reads documents only; of row groups it checks existence and size. What seems
    damaged is looked at twice, so that a builder at work is not taken for damage.

    Raises CacheError for a cache of a newer format, StorageError when a bucket is out of reach.
    """
    objects = open_objects(address)
    first = _look(objects, depth, progress)
    suspects = {finding.array for finding in first.findings if finding.damage}
    if not suspects:
        return first.result()
    second = _look(objects, depth, None, suspects)
    kept = [f for f in first.findings if not f.damage and f.array not in suspects]
    first.findings = kept + [f for f in second.findings if f.array in suspects]
    return first.result()


def _look(
    objects: Objects,
    depth: Depth,
    progress: Tell | None,
    arrays: Collection[str | None] | None = None,
) -> Look:
    """Look at everything, or at these arrays and the documents of all (None among them)."""
    look = Look(objects, dict(objects.walk()))
    about = check_root(look)
    look.key = None if about is None else about["key"]
    paths = array_paths(look.sizes)
    tasks = []
    for path in paths:
        if arrays is None or path in arrays:
            tasks += _check_array(look, path)
    check_groups(look, paths)
    _check_objects(look, tasks, depth, progress)
    if about is not None:
        for name in ROWS_ARRAYS:
            if name not in paths:
                look.add(f"meta/arrays/{name}/zarr.json", name, None, "is missing", "data set")
        if depth != "quick":
            check_samples(look, about)
    if arrays is None:
        _unknown(look, paths)
    return look


@dataclass(frozen=True)
class _Task:
    """A row group's object and the descriptions of it, any of which may be right."""

    key: str
    array: str
    rows: tuple[int, int]
    expected: tuple[dict[str, Any], ...]


def _check_array(look: Look, path: str) -> list[_Task]:
    """Check an array's documents; return its row groups' objects, which are still to be read."""
    folder = f"meta/receipts/{path}"
    names = [name for name in look.objects.names(folder) if f"{folder}/{name}" in look.sizes]
    fetched = _mapped(lambda name: look.fetch(f"{folder}/{name}"), names)
    receipts = dict(zip(names, map(parse_receipt, fetched), strict=True))
    declared = look.fetch(f"meta/arrays/{path}/zarr.json")
    shown = look.fetch(f"{path}/zarr.json")
    right = right_layout(path, declared, shown, [r for r in receipts.values() if r is not None])
    if declared is None or declared != right:
        what = "is missing" if declared is None else "does not fit its receipts"
        repair = "rewrite" if right is not None else repair_of(path)
        look.add(f"meta/arrays/{path}/zarr.json", path, None, what, repair)
    if right is None:
        look.vouched.update(key for key in look.sizes if key.startswith(f"{path}/c/"))
        return []
    if shown is not None and shown != right and not grows(path, shown, right):
        look.add(f"{path}/zarr.json", path, None, "is not the array's layout", "rewrite")
    return _check_receipts(look, layout_from(path, right), receipts, layout_digest(right))


def _check_receipts(
    look: Look, layout: ArrayLayout, receipts: Mapping[str, Mapping[str, Any] | None], digest: str
) -> list[_Task]:
    path = layout.path
    held: dict[tuple[int, int], dict[int, str]] = {}
    announced: dict[tuple[int, int], str] = {}
    for name in receipts:
        place = parse_name(name)
        if place is None:
            look.add(f"{layout.receipts}/{name}", path, None, "is no receipt", "-")
        elif place[2] is None:
            announced[place[:2]] = name
            look.add(f"{layout.receipts}/{name}", path, None, "announces a write cut off", "-")
        else:
            held.setdefault(place[:2], {})[place[2]] = name
    tasks = []
    for (view, index), by_length in sorted(held.items()):
        longest = max(by_length)
        start = index * layout.group_rows
        group = Group(view, index, start, start + longest)
        rows = (group.start, group.stop)
        for n_rows in by_length.keys() - {longest}:
            look.add(
                f"{layout.receipts}/{by_length[n_rows]}",
                path,
                rows,
                "is outgrown by a longer one",
                "-",
            )
        key, receipt = layout.object_key(group), receipts[by_length[longest]]
        if receipt is None or not receipt_fits(receipt, layout, group, digest, look.key):
            what = "does not fit its own checksum, its name or its array"
            look.add(layout.receipt_key(group), path, rows, what, repair_of(path))
            look.vouched.add(key)
            continue
        described = (receipt, receipts.get(announced.get((view, index), "")))
        expected = tuple(d["objects"][key] for d in described if d and key in d["objects"])
        tasks.append(_Task(key, path, rows, expected))
    _check_whole(look, layout, {place: max(by_length) for place, by_length in held.items()})
    return tasks


def _check_whole(look: Look, layout: ArrayLayout, committed: Mapping[tuple[int, int], int]) -> None:
    """An array is published if, and only if, all its rows are under receipts."""
    missing = [
        group
        for group in layout.groups()
        if committed.get((group.view, group.index), 0) < group.stop - group.start
    ]
    shown = f"{layout.path}/zarr.json"
    if shown not in look.sizes:
        if not missing:
            what = "is missing, although the array is whole"
            look.add(shown, layout.path, None, what, "rewrite")
        return
    for group in missing:
        what = "is missing, although the array is published"
        rows = (group.start, group.stop)
        look.add(layout.receipt_key(group), layout.path, rows, what, repair_of(layout.path))
        look.vouched.add(layout.object_key(group))


def _check_objects(look: Look, tasks: list[_Task], depth: Depth, progress: Tell | None) -> None:
    checked = _mapped(lambda task: _check_object(look, task, depth), tasks)
    for done, (task, what) in enumerate(zip(tasks, checked, strict=True), 1):
        look.vouched.add(task.key)
        if what is not None:
            look.add(task.key, task.array, task.rows, what, repair_of(task.array))
        if progress is not None:
            progress("verifying", done, len(tasks))


def _mapped(function: Callable[[_T], _R], items: Sequence[_T]) -> Iterator[_R]:
    """Yield the results in order, by threads where there is more than a handful."""
    if len(items) < _READERS:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(_READERS) as pool:
        yield from pool.map(function, items)


def _check_object(look: Look, task: _Task, depth: Depth) -> str | None:
    """Return what is wrong with a row group's object; its bytes are not kept."""
    size = look.sizes.get(task.key)
    if size is None:
        return "is missing"
    allowed = [described["bytes"] for described in task.expected]
    if size not in allowed:
        return f"has {size} bytes instead of {allowed[0]}"
    if depth == "quick":
        return None
    data = look.fetch(task.key)
    if data is None:
        return "cannot be read"
    return None if describe(data) in task.expected else "does not fit its receipt's checksums"


def _is_sealed(data: bytes, key: str) -> bool:
    try:
        unseal(data, key)
    except CacheError:
        return False
    return True


def _unknown(look: Look, paths: Iterable[str]) -> None:
    for key in sorted(look.sizes.keys() - look.vouched):
        array = next((path for path in paths if key.startswith(f"{path}/c/")), None)
        if key in ("meta/lock", STAMP):
            continue
        if key == LABEL:
            data = look.fetch(key)
            if data is None or not _is_sealed(data, key):
                look.add(key, None, None, "does not fit its own checksum; name it again", "-")
            continue
        if array is not None:
            look.add(key, array, None, "is counted by no receipt", "-")
        elif key.startswith("meta/claims/"):
            look.add(key, None, None, "belongs to a builder at work, or to one that died", "-")
        else:
            look.add(key, None, None, "is no object of a cache", "-")
