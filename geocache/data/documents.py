"""Which documents of a cache are as they should be, and which of two copies is the right one."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from geocache.data.cache import Cache
from geocache.data.catalog import cache_folder
from geocache.data.findings import Look
from geocache.data.formats import brought_up
from geocache.data.identity import cache_key, data_digest
from geocache.data.layout import ArrayLayout, Group
from geocache.data.sealed import digest_of, unseal
from geocache.data.store import array_metadata, group_metadata, layout_digest, layout_from
from geocache.errors import CacheError

__all__ = [
    "array_paths",
    "check_groups",
    "check_root",
    "check_samples",
    "grows",
    "parse_name",
    "parse_receipt",
    "receipt_fits",
    "right_layout",
]

_CHUNK = re.compile(r"(.+)/c/\d+(/\d+)*")
_RECEIPT = re.compile(r"v(\d+)-g(\d{6,12})(?:-r(\d{6,12})\.json|\.next)")
_KEY_FOLDER = re.compile(r"[0-9a-f]{20}\.zarr")


def array_paths(keys: Iterable[str]) -> list[str]:
    """Return every array of which a document or an object stands there, sorted."""
    found = set()
    for key in keys:
        folder, _, name = key.rpartition("/")
        if key.startswith("meta/arrays/") and name == "zarr.json":
            found.add(folder.removeprefix("meta/arrays/"))
        elif key.startswith("meta/receipts/"):
            found.add(folder.removeprefix("meta/receipts/"))
        elif not key.startswith("meta/") and (chunk := _CHUNK.fullmatch(key)):
            found.add(chunk[1])
    return sorted(path for path in found if path)


def parse_name(name: str) -> tuple[int, int, int | None] | None:
    """Return view, group and rows of a receipt's name (no rows: an announcement's), or None."""
    match = _RECEIPT.fullmatch(name)
    if match is None:
        return None
    return int(match[1]), int(match[2]), int(match[3]) if match[3] else None


def parse_receipt(data: bytes | None) -> dict[str, Any] | None:
    """Return a receipt whose seal is whole and that has what every receipt has, or None."""
    try:
        document = unseal(data or b"", "receipt")
        start, stop = document["rows"]
        complete = isinstance(document["layout"], str) and isinstance(document["array"], str)
        sizes = [described["bytes"] for described in document["objects"].values()]
        whole = [start, stop, document["view"], *sizes]
    except (CacheError, KeyError, TypeError, ValueError, AttributeError):
        return None
    return document if complete and all(isinstance(n, int) for n in whole) else None


def receipt_fits(
    receipt: Mapping[str, Any], layout: ArrayLayout, group: Group, digest: str, key: str | None
) -> bool:
    """Return whether a receipt is that of this group of this array of the cache with this key."""
    return bool(
        (key is None or receipt.get("cache") == key)
        and receipt["array"] == layout.path
        and receipt["view"] == group.view
        and receipt["rows"] == [group.start, group.stop]
        and receipt["layout"] == digest
        and receipt["objects"].keys() == {layout.object_key(group)}
    )


def right_layout(
    path: str,
    declared: bytes | None,
    shown: bytes | None,
    receipts: Sequence[Mapping[str, Any]],
) -> bytes | None:
    """Return which of an array's two documents is right, None where neither is.

    Its receipts say so, most of them being right; without receipts, that it is as it is written.
    The declared one may have more views than the shown one while those are being built: then some
    receipt counts rows of them.
    """
    digests = Counter(r["layout"] for r in receipts if r["array"] == path)
    digest = digests.most_common(1)[0][0] if digests else None
    for candidate in (declared, shown):
        if candidate is None:
            continue
        try:
            layout = layout_from(path, candidate)
            fits = array_metadata(layout) == candidate
            if digest is not None:
                fits = fits and layout_digest(candidate) == digest
                fits = fits and not _grown_for_nothing(layout, path, shown, receipts)
        except Exception:  # What a flipped bit makes of a document, zarr refuses in many ways.
            continue
        if fits:
            return candidate
    return None


def grows(path: str, shown: bytes, right: bytes) -> bool:
    """Return whether a shown document is the right one but for views that are being added."""
    try:
        fewer = layout_from(path, shown).n_views or 1
        return layout_digest(shown) == layout_digest(right) and fewer < (
            layout_from(path, right).n_views or 1
        )
    except Exception:  # As above.
        return False


def _grown_for_nothing(
    layout: ArrayLayout, path: str, shown: bytes | None, receipts: Sequence[Mapping[str, Any]]
) -> bool:
    """Return whether a layout has views beside the shown ones of which nothing is committed."""
    if shown is None or layout.n_views is None:
        return False
    try:
        n_shown = layout_from(path, shown).n_views or 1
    except Exception:  # As above.
        return False
    held = {int(r["view"]) for r in receipts if r["array"] == path}
    return layout.n_views > n_shown and max(held, default=0) < n_shown


def check_root(look: Look) -> dict[str, Any] | None:
    """Check the root document and return what it says, None when it cannot be trusted.

    Raises CacheError for a newer format, which is not ours to judge.
    """
    data = look.fetch("zarr.json")
    if data is None:
        look.add("zarr.json", None, None, "is missing", "identity")
        return None
    try:
        about: dict[str, Any] = json.loads(data)["attributes"]["geocache"]
        whole = about["sha256"] == digest_of(about)
        if whole:
            brought_up(about, look.objects.root)
        whole = whole and data == group_metadata({"geocache": about})
        whole = whole and about["key"] == cache_key(about["identity"])
    except CacheError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        look.add("zarr.json", None, None, "does not fit its own checksum", "identity")
        return None
    folder = str(look.objects.root).rstrip("/").rpartition("/")[2]
    if _KEY_FOLDER.fullmatch(folder) and cache_folder(Path(), about["key"]) != Path(folder):
        look.add("zarr.json", None, None, "belongs to a cache with another key", "identity")
        return None
    return about


def check_samples(look: Look, about: Mapping[str, Any]) -> None:
    """Check, where nothing else is wrong, that the rows are those that the key names."""
    if any(finding.damage for finding in look.findings):
        return
    try:
        held = data_digest(Cache(look.objects.root).sample_id)
    except CacheError:
        return  # Not there yet, or found damaged on the way here.
    if held != about["identity"]["data"]["samples"]:
        look.add("zarr.json", None, None, "names another data set than sample_id holds", "identity")


def check_groups(look: Look, paths: Sequence[str]) -> None:
    """Check the documents of the groups above published arrays: always the same few bytes."""
    expected = group_metadata({})
    needed = set()
    known = set()
    for path in paths:
        parts = path.split("/")
        above = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
        known |= above
        if f"{path}/zarr.json" in look.sizes:
            needed |= above
    for group in sorted(known - set(paths)):
        key = f"{group}/zarr.json"
        if key not in look.sizes:
            if group in needed:
                look.add(key, None, None, "is missing", "rewrite")
        elif look.fetch(key) != expected:
            look.add(key, None, None, "is not a group's document", "rewrite")
