"""What a cache is a cache of, and in which order its rows stand.

The key is the SHA-256 of a canonical JSON of the teacher, the data and the views. Anything that
could change one stored number is in it; paths, file names, order, labels and the list of targets
are not. Rows stand in the order of a keyed hash of each sample's content: the caches of all
teachers over the same data line up, and a stream read block by block is random although data sets
come sorted by class.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from geocache.data.layout import FORMAT_VERSION
from geocache.errors import ConfigError

__all__ = [
    "DataIdentity",
    "TeacherIdentity",
    "ViewIdentity",
    "cache_key",
    "data_digest",
    "identity_document",
    "row_order",
]

_ORDER_KEY = b"geocache row order 1"


@dataclass(frozen=True)
class TeacherIdentity:
    """The model, its weights and what its input goes through."""

    model: str
    options: Mapping[str, Any]
    n_classes: int
    weights: str
    """Content hash of the loaded state, whatever file it came from."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    precision: str = "float32"


@dataclass(frozen=True)
class DataIdentity:
    """The multiset of samples and how their pixels were brought to one size."""

    samples: str
    n_rows: int
    image: Mapping[str, Any]


@dataclass(frozen=True)
class ViewIdentity:
    """The augmentation policy; the number of views is an axis that grows and is not part of it."""

    policy: str = "identity"
    parameters: Mapping[str, Any] = field(default_factory=dict)


def identity_document(
    teacher: TeacherIdentity, data: DataIdentity, views: ViewIdentity
) -> dict[str, Any]:
    """Return the JSON document whose hash is the key."""
    return {
        "format": FORMAT_VERSION,
        "teacher": asdict(teacher),
        "data": asdict(data),
        "views": asdict(views),
    }


def cache_key(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON: sorted keys, no spaces, shortest floats.

    Raises ConfigError when it holds what JSON cannot, such as an option that is infinite.
    """
    try:
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"options and preprocessing must be finite numbers, texts, lists or tables, since they "
            f"name the cache, got something else: {error}."
        ) from None
    return hashlib.sha256(text.encode()).hexdigest()


def data_digest(digests: UInt8[np.ndarray, "n 32"]) -> str:
    """Hash the multiset of sample digests: order does not count, repetition does."""
    return hashlib.sha256(np.sort(_as_keys(digests)).tobytes()).hexdigest()


def row_order(
    digests: UInt8[np.ndarray, "n 32"], labels: Int64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """Return for each row the index of its sample: sorted by a keyed hash of the content.

    Copies of one sample stand side by side, lower labels first, so that their labels too are a
    function of the data alone.
    """
    hashed = np.empty((len(digests), 16), np.uint8)
    for i, digest in enumerate(digests):
        keyed = hashlib.blake2b(digest.tobytes(), digest_size=16, key=_ORDER_KEY).digest()
        hashed[i] = np.frombuffer(keyed, np.uint8)
    return np.lexsort((labels, _as_keys(hashed))).astype(np.int64)


def _as_keys(digests: UInt8[np.ndarray, "n width"]) -> np.ndarray[Any, Any]:
    """View fixed-width digests as byte strings that numpy sorts whole."""
    contiguous = np.ascontiguousarray(digests)
    return contiguous.view(f"V{contiguous.shape[1]}").reshape(-1)
