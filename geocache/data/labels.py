"""Names, notes and pins that users give to caches: beside the identity, not part of it.

They stand in one sealed object of the cache. A name is plain letters and digits, so that it can
lead to no other folder; a note is one line without control characters, so that showing it cannot
steer a terminal. A label that cannot be read counts as a pin: what the user wanted is not known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from geocache.data.objects import Objects
from geocache.data.sealed import seal, unseal
from geocache.errors import CacheError, ConfigError

__all__ = ["LABEL", "Label", "check_name", "check_note", "read_label", "write_label"]

LABEL = "meta/label.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_NOTE_LENGTH = 500


@dataclass(frozen=True)
class Label:
    """What a user says of a cache."""

    name: str | None = None
    note: str = ""
    pinned: bool = False
    damaged: bool = False
    """The object is there but cannot be trusted; `pinned` is true then."""


def check_name(name: str) -> None:
    """Raise ConfigError unless a name is 1 to 40 letters, digits, `.`, `_` and `-`."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            "a cache's name must be 1 to 40 letters, digits, '.', '_' and '-', the first a letter "
            f"or digit, got {ascii(name)[:60]}. Choose another."
        )


def check_note(note: str) -> None:
    """Raise ConfigError unless a note is one printable line of at most 500 characters."""
    if len(note) > _NOTE_LENGTH or not note.isprintable():
        raise ConfigError(
            f"a cache's note must be one line of at most {_NOTE_LENGTH} printable characters, "
            f"got {ascii(note)[:60]} ({len(note)} characters). Leave out line breaks and control "
            "characters."
        )


def read_label(objects: Objects) -> Label:
    """Return a cache's label: an empty one where there is none, a pin where it is damaged."""
    if not objects.exists(LABEL):
        return Label()
    try:
        return _label(unseal(objects.get(LABEL), LABEL))
    except (CacheError, ConfigError):
        return Label(pinned=True, damaged=True)


def write_label(objects: Objects, label: Label) -> None:
    """Write a cache's label; ConfigError for what it must not hold, StorageError when refused."""
    if label.name is not None:
        check_name(label.name)
    check_note(label.note)
    data = seal({"name": label.name, "note": label.note, "pinned": label.pinned})
    with objects.writing():
        objects.put(LABEL, data)


def _label(held: Mapping[str, Any]) -> Label:
    name, note, pinned = held.get("name"), held.get("note"), held.get("pinned")
    if not (isinstance(name, str | None) and isinstance(note, str) and isinstance(pinned, bool)):
        raise ConfigError(f"object '{LABEL}' must hold name, note and pinned.")
    if name is not None:
        check_name(name)
    check_note(note)
    return Label(name, note, pinned)
