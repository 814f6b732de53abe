"""JSON documents that carry their own checksum: every byte of them is under it.

A sealed document is written in one canonical form; reading it checks that the bytes are that form
and that the SHA-256 inside is that of the rest. A checksum is not a signature: it finds accidents.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from geocache.errors import CacheError

__all__ = ["digest_of", "parse_json", "seal", "unseal"]

_FIELD = "sha256"


def digest_of(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a document's canonical JSON, without its own digest."""
    rest = {key: value for key, value in document.items() if key != _FIELD}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def parse_json(data: bytes) -> Any:
    """Parse JSON; raise ValueError for what is none, for NaN and Infinity, and for deep nesting."""
    try:
        return json.loads(data, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _no_number(name: str) -> None:
    raise ValueError(f"JSON has no {name}")


def seal(document: Mapping[str, Any]) -> bytes:
    """Return the document's bytes with its digest inside."""
    whole = {**document, _FIELD: digest_of(document)}
    return (json.dumps(whole, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def unseal(data: bytes, key: str) -> dict[str, Any]:
    """Return the document; raise CacheError, naming the object, unless every byte is as sealed."""
    try:
        document = parse_json(data)
        whole = seal(document) == data
    except (ValueError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise CacheError(
            f"object '{key}' is damaged: its bytes do not fit its checksum. `geocache verify` "
            "shows what else is, and --repair restores it."
        )
    return {name: value for name, value in document.items() if name != _FIELD}
