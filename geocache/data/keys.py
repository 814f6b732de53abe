"""Which keys name an object: plain names with `/` between them, so that none leads elsewhere."""

from __future__ import annotations

from geocache.errors import CacheError

__all__ = ["check_key"]


def check_key(key: str, root: object) -> None:
    """Raise CacheError for a key with `..`, an empty part, a backslash or a null byte."""
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in key.split("/")):
        raise CacheError(f"object key must be plain names, got '{key}' (in {root}).")
