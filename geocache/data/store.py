"""Turn arrays into Zarr objects and back: the only file that imports zarr.

zarr is used as a codec, not as a file system: a row group is encoded in memory into the exact
objects that zarr itself would write, and the object layer below makes them durable. Every codec
chain ends in crc32c; an object that is missing is an error, not a fill value, because objects are
fetched before they are decoded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from geocache.data.bounds import check_codecs, check_layout, check_path
from geocache.data.chunks import decode_chunks
from geocache.data.frames import check_frames
from geocache.data.layout import ArrayLayout, Group
from geocache.data.sealed import parse_json
from geocache.errors import CacheError

__all__ = [
    "array_metadata",
    "checksum",
    "decode_group",
    "encode_group",
    "group_metadata",
    "layout_digest",
    "layout_from",
]

_ZSTD_LEVEL = 3


def array_metadata(layout: ArrayLayout) -> bytes:
    """Return the `zarr.json` of an array."""
    return _metadata(_array(layout, {}))


def group_metadata(attributes: Mapping[str, Any]) -> bytes:
    """Return the `zarr.json` of a group."""
    document = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def encode_group(layout: ArrayLayout, group: Group, rows: np.ndarray[Any, Any]) -> dict[str, bytes]:
    """Encode the rows of one group as whole objects, key to bytes.

    rows: (stop - start, *row_shape) in the array's type. Raises CacheError on another shape.
    """
    expected = (group.stop - group.start, *layout.row_shape)
    if rows.shape != expected or rows.dtype != np.dtype(layout.dtype):
        raise CacheError(
            f"rows must be {layout.dtype} {expected}, got {rows.dtype} {rows.shape} "
            f"({layout.path})."
        )
    held: dict[str, Any] = {}
    array = _array(layout, held)
    if layout.n_views is None:
        array[group.start : group.stop] = rows
    else:
        array[group.view, group.start : group.stop] = rows
    prefix = "c/"
    objects = {
        f"{layout.path}/{key}": value.to_bytes()
        for key, value in held.items()
        if key.startswith(prefix)
    }
    if set(objects) != {layout.object_key(group)}:
        raise CacheError(f"a row group must be one object, got {sorted(objects)} ({layout.path}).")
    return objects


def checksum(data: bytes) -> int:
    """Return the CRC-32C of an object as receipts carry it; 16 GB/s, so readers can afford it."""
    import google_crc32c  # zarr's own

    return int(google_crc32c.value(data))


def decode_group(layout: ArrayLayout, group: Group, data: bytes) -> np.ndarray[Any, Any]:
    """Decode one group's object; raise CacheError naming it when its checksum fails."""
    key = layout.object_key(group)
    try:
        check_frames(layout, group, data)
        if layout.packed:
            return _decoded_by_zarr(layout, group, data)
        return decode_chunks(layout, group.stop - group.start, data)
    except Exception as error:  # zarr, numcodecs and crc32c each raise their own kinds.
        raise CacheError(
            f"object '{key}' is damaged: {' '.join(str(error).split())} "
            f"(rows {group.start} to {group.stop - 1}). `geocache verify --repair` restores it."
        ) from error


def _decoded_by_zarr(layout: ArrayLayout, group: Group, data: bytes) -> np.ndarray[Any, Any]:
    from zarr.core.buffer import default_buffer_prototype

    buffer = default_buffer_prototype().buffer.from_bytes(data)
    array = _array(layout, {})
    array.store._store_dict[layout.object_key(group).removeprefix(layout.path + "/")] = buffer
    if layout.n_views is None:
        return np.asarray(array[group.start : group.stop])
    return np.asarray(array[group.view, group.start : group.stop])


def layout_digest(metadata: bytes) -> str:
    """Return the SHA-256 of an array's `zarr.json` but for its number of views, which may grow."""
    document = json.loads(metadata)
    if document["dimension_names"][0] == "view":
        document["shape"][0] = 1
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def layout_from(path: str, metadata: bytes) -> ArrayLayout:
    """Read an array's layout back from its `zarr.json`; raise CacheError when it is not ours."""
    try:
        check_path(path)
        document = parse_json(metadata)
        attributes = document["attributes"]
        own = attributes["geocache"]
        axes = tuple(document["dimension_names"])
        shape = tuple(document["shape"])
        if len(axes) != len(shape):
            raise ValueError(f"{len(axes)} names for {len(shape)} axes")
        views = shape[0] if axes[0] == "view" else None
        skip = 2 if views is not None else 1
        layout = ArrayLayout(
            path=path,
            dtype=document["data_type"],
            n_rows=shape[skip - 1],
            row_shape=shape[skip:],
            row_axes=axes[skip:],
            bytes_per_row=own["bytes_per_row"],
            n_views=views,
            packed=bool(own["packed"]),
            unit_rows=own["unit_rows"],
            attributes=attributes,
            sizes=_sizes(document, skip - 1),
        )
        check_layout(layout)
        check_codecs(document, packed=layout.packed, n_lead=skip)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, ArithmeticError) as error:
        raise CacheError(
            f"object 'meta/arrays/{ascii(path)[1:-1]:.200}/zarr.json' is damaged: {error!r} (all "
            "rows of that array). `geocache verify --repair` restores it."
        ) from error
    return layout


def _sizes(document: Mapping[str, Any], axis: int) -> tuple[int, int]:
    """Return the rows of a row group and of a chunk, as an array's metadata says."""
    group = document["chunk_grid"]["configuration"]["chunk_shape"][axis]
    chunk = group
    for codec in document["codecs"]:
        if codec["name"] == "sharding_indexed":
            chunk = codec["configuration"]["chunk_shape"][axis]
    if not (type(group) is type(chunk) is int and 0 < chunk <= group):
        raise ValueError(f"chunks of {chunk} rows in groups of {group}")
    return group, chunk


def _array(layout: ArrayLayout, held: dict[str, Any]) -> Any:
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec
    from zarr.storage import MemoryStore

    size, inner = layout.group_rows, layout.chunk_rows
    lead = () if layout.n_views is None else (1,)
    chunks = (*lead, inner, *layout.row_shape)
    own = {
        "bytes_per_row": layout.bytes_per_row,
        "packed": layout.packed,
        "unit_rows": layout.unit_rows,
    }
    attributes = {**layout.attributes, "geocache": {**layout.attributes.get("geocache", {}), **own}}
    with _quiet_about_numcodecs() if layout.packed else contextlib.nullcontext():
        return zarr.create_array(
            MemoryStore(held),
            shape=layout.shape,
            chunks=chunks,
            shards=None if inner == size else (*lead, size, *layout.row_shape),
            dtype=layout.dtype,
            filters=_packing() if layout.packed else None,
            compressors=[ZstdCodec(level=_ZSTD_LEVEL), Crc32cCodec()],
            fill_value=0,
            dimension_names=layout.axes,
            attributes=attributes,
            config={"write_empty_chunks": True},
        )


@contextlib.contextmanager
def _quiet_about_numcodecs() -> Iterator[None]:
    """Pass over what zarr says of every numcodecs codec: that it is outside the core specification.

    Warning filters belong to the process, not to the thread: touch them only where it must be.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr version 3")
        yield


def _packing() -> list[Any]:
    from zarr.codecs.numcodecs import PackBits

    return [PackBits()]


def _metadata(array: Any) -> bytes:
    return bytes(array.store._store_dict["zarr.json"].to_bytes())
