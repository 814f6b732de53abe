"""What the metadata of a cache may say: everything that is read is held against a bound first.

A cache may come from elsewhere. Its JSON decides how much is allocated, which names are looked up
and which codecs run, so it is checked as an open door would be: types, ranges, names, and the one
chain of codecs that geocache writes. The functions raise ValueError, KeyError or TypeError; their
callers name the object.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from geocache.data.layout import ArrayLayout

__all__ = ["check_about", "check_codecs", "check_layout", "check_path", "whole_number"]

MAX_ROWS = 2**40
MAX_GROUP_BYTES = 2**30
_MAX_GROUPS = 2**24
_MAX_VIEWS = 2**16
_MAX_AXES = 8
_MAX_CLASSES = 2**20
_TYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16",
    "float32", "float64",
)  # fmt: skip
_KEY = re.compile(r"[0-9a-z]{16,128}")
_ILLEGAL = frozenset('\\:*?"<>|')


def whole_number(value: Any, low: int, high: int, what: str) -> int:
    """Return an integer of JSON within bounds; true and 2.0 are none."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{what} must be a whole number from {low} to {high}, got {value!r:.40}")
    return value


def check_path(path: str) -> None:
    """Check that an array's path is made of names that are legal files everywhere."""
    parts = path.split("/")
    for part in parts:
        if (
            not 0 < len(part) <= 200
            or not part.isprintable()
            or _ILLEGAL & set(part)
            or part[0] in ". "
            or part[-1] in ". "
        ):
            raise ValueError(f"names must be legal for files everywhere, got {part!r:.60}")
    if len(parts) > _MAX_AXES or parts[0] == "meta":
        raise ValueError(f"path must be at most {_MAX_AXES} names and none of meta's")


def check_layout(layout: ArrayLayout) -> None:
    """Check an array's type, shape and row groups: at most 1 GiB is decoded at once."""
    if layout.dtype not in _TYPES:
        raise ValueError(f"data type must be one of numbers, got {layout.dtype!r:.40}")
    if len(layout.row_shape) > _MAX_AXES or len(layout.row_shape) != len(layout.row_axes):
        raise ValueError(f"a row must have at most {_MAX_AXES} axes, each with a name")
    if not all(isinstance(name, str) for name in layout.row_axes):
        raise ValueError("axes must be named")
    whole_number(layout.n_rows, 1, MAX_ROWS, "rows")
    whole_number(1 if layout.n_views is None else layout.n_views, 1, _MAX_VIEWS, "views")
    for size in layout.row_shape:
        whole_number(size, 1, MAX_GROUP_BYTES, "axis")
    whole_number(layout.bytes_per_row, 1, MAX_GROUP_BYTES, "bytes_per_row")
    whole_number(layout.unit_rows, 1, MAX_GROUP_BYTES, "unit_rows")
    group, chunk = layout.group_rows, layout.chunk_rows
    if group % chunk:
        raise ValueError(f"a group of {group} rows must be whole chunks of {chunk}")
    row_bytes = math.prod(layout.row_shape) * np.dtype(layout.dtype).itemsize
    if row_bytes * group > MAX_GROUP_BYTES:
        raise ValueError(
            f"a row group must take at most {MAX_GROUP_BYTES} bytes, got {row_bytes * group}"
        )
    if -(-layout.n_rows // group) * (layout.n_views or 1) > _MAX_GROUPS:
        raise ValueError(f"an array must have at most {_MAX_GROUPS} row groups")


def check_codecs(document: Mapping[str, Any], *, packed: bool, n_lead: int) -> None:
    """Check that an array's chunks are encoded as geocache writes them, and cut along rows alone.

    n_lead: the axes before a row's own: views and rows.
    """
    shape, lead = document["shape"], [1, None][2 - n_lead :]
    grid = document["chunk_grid"]
    _check_chunk(grid["configuration"]["chunk_shape"], shape, lead)
    codecs = document["codecs"]
    if _names(codecs) == ["sharding_indexed"]:
        inner = codecs[0]["configuration"]
        _check_chunk(inner["chunk_shape"], shape, lead)
        if _names(inner["index_codecs"]) != ["bytes", "crc32c"]:
            raise ValueError("a shard's index must be encoded as bytes and crc32c")
        if inner.get("index_location", "end") != "end":
            raise ValueError("a shard's index must stand at its end")
        codecs = inner["codecs"]
    expected = [*(["numcodecs.packbits"] if packed else []), "bytes", "zstd", "crc32c"]
    if _names(codecs) != expected:
        raise ValueError(f"codecs must be {expected}, got {_names(codecs)!r:.200}")
    encoding = document["chunk_key_encoding"]
    if (grid["name"], encoding["name"]) != ("regular", "default"):
        raise ValueError("chunks must stand in a regular grid under default keys")
    if document.get("storage_transformers"):
        raise ValueError("there must be no storage transformers")


def _names(codecs: Any) -> list[Any]:
    if not isinstance(codecs, list) or len(codecs) > _MAX_AXES:
        raise ValueError("codecs must be a short list")
    return [codec["name"] for codec in codecs]


def _check_chunk(chunk: Any, shape: Sequence[int], lead: list[int | None]) -> None:
    expected = [*lead, *shape[len(lead) :]]
    same = isinstance(chunk, list) and len(chunk) == len(expected)
    if not same or any(e is not None and c != e for c, e in zip(chunk, expected, strict=True)):
        raise ValueError(f"chunks must be cut along rows alone, got {chunk!r:.80}")


def check_about(about: Mapping[str, Any]) -> None:
    """Check the types and bounds of what a cache says of itself."""
    identity = about["identity"]
    if not isinstance(about["key"], str) or not _KEY.fullmatch(about["key"]):
        raise ValueError(f"key must be letters and digits, got {about['key']!r:.40}")
    whole_number(identity["format"], 1, 10**6, "format")
    classes = about["classes"]
    if not isinstance(classes, list) or len(classes) > _MAX_CLASSES:
        raise ValueError("classes must be a list")
    if not all(isinstance(name, str) for name in classes):
        raise ValueError("classes must be names")
    whole_number(about["n_rows"], 1, MAX_ROWS, "n_rows")
    sizes = about["image_shape"]
    if not isinstance(sizes, list) or len(sizes) != 3:
        raise ValueError("image_shape must be height, width and channels")
    for size in sizes:
        whole_number(size, 1, 2**20, "image_shape")
    for name in ("mean", "std"):
        values = identity["teacher"][name]
        if not isinstance(values, list) or len(values) > 2**10:
            raise ValueError(f"{name} must be a list")
        if not all(type(value) in (int, float) and math.isfinite(value) for value in values):
            raise ValueError(f"{name} must be numbers")
