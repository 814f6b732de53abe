"""Open a user's .npy or .npz without trusting it: nothing in it is unpickled.

A .npy is mapped, so that arrays larger than memory can be read row by row. A member of a .npz is
compressed or stored as a whole and is read as a whole.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geocache.errors import DataError, MissingDataError, UnknownNameError, nearest

__all__ = ["LABELS", "SAMPLE_ID", "ArrayFile", "open_array_file"]

LABELS, SAMPLE_ID = "labels", "sample_id"
_SPECIAL = (LABELS, SAMPLE_ID)
_UNREADABLE = (
    ValueError,
    OSError,
    EOFError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, eq=False)
class ArrayFile:
    """What a file gives: the array, and what its rows are where it says so."""

    name: str
    """The file's name, without its folder."""
    array: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any] | None = None
    ids: np.ndarray[Any, Any] | None = None


def open_array_file(
    file: str | Path,
    *,
    member: str | None = None,
    labels: str | None = None,
    ids: str | None = None,
) -> ArrayFile:
    """Open the array of a .npy, or the `member` of a .npz.

    member: the only one that is not `labels` or `sample_id` by default. labels and ids: a member of
    the same .npz, or another .npy; by default the members `labels` and `sample_id` where they are.

    Raises MissingDataError when a file is absent, UnknownNameError for a member that is not there,
    DataError when a file is damaged, holds Python objects or several arrays to choose from.
    """
    path = Path(file)
    if not _is_npz(path):
        if member is not None:
            raise DataError(
                f"--member must be given for a .npz alone, got '{member}' for a .npy ({path}). "
                "Leave it out."
            )
        return ArrayFile(
            path.name, _mapped(path), labels=_beside(labels, path, ()), ids=_beside(ids, path, ())
        )
    members = _members(path)
    chosen = member or _only_member(members, path)
    if chosen not in members:
        raise UnknownNameError(
            f"--member must be one of {', '.join(members) or 'none'}, got '{chosen}' ({path})."
            f"{nearest(chosen, members)}"
        )
    return ArrayFile(
        path.name,
        _member(path, chosen),
        labels=_beside(labels or _present(LABELS, members), path, members),
        ids=_beside(ids or _present(SAMPLE_ID, members), path, members),
    )


def _present(name: str, members: tuple[str, ...]) -> str | None:
    return name if name in members else None


def _only_member(members: tuple[str, ...], path: Path) -> str:
    plain = [name for name in members if name not in _SPECIAL]
    if len(plain) != 1:
        raise DataError(
            f"a .npz must hold one array besides {' and '.join(_SPECIAL)}, or be given --member, "
            f"got {', '.join(plain) or 'none'} ({path}). Give --member NAME."
        )
    return plain[0]


def _beside(which: str | None, path: Path, members: tuple[str, ...]) -> np.ndarray[Any, Any] | None:
    """Return a member of the same .npz, or the array of another .npy."""
    if which is None:
        return None
    if which in members:
        return _member(path, which)
    other = Path(which)
    if not other.exists() and members:
        raise UnknownNameError(
            f"labels and ids must be a member of {path} ({', '.join(members)}) or a .npy file, "
            f"got '{which}'.{nearest(which, members)}"
        )
    if _is_npz(other):
        raise DataError(f"labels and ids must be a .npy file, got a .npz ({other}). Save one.")
    return _mapped(other)


def _is_npz(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            front = stream.read(6)
    except FileNotFoundError:
        raise MissingDataError(
            f"file must be there, got none ({path}). Give the path of a .npy or .npz."
        ) from None
    except OSError as error:
        raise DataError(f"file must be readable, got {error.strerror} ({path}).") from None
    if front.startswith(b"PK"):
        return True
    if front != b"\x93NUMPY":
        raise DataError(
            f"file must be a .npy or .npz, got other content ({path}). "
            "Save the array with numpy.save or numpy.savez."
        )
    return False


def _mapped(path: Path) -> np.ndarray[Any, Any]:
    if _is_npz(path):
        raise DataError(f"file must be a .npy, got a .npz ({path}). Save the array alone.")
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except _UNREADABLE as error:
        raise _unreadable(str(path), error) from None


def _members(path: Path) -> tuple[str, ...]:
    try:
        # Opened here, since numpy leaves a damaged .npz open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as data:
            return tuple(data.files)
    except _UNREADABLE as error:
        raise _unreadable(str(path), error) from None


def _member(path: Path, name: str) -> np.ndarray[Any, Any]:
    where = f"member '{name}' of {path}"
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as data:
            array = data[name]
    except _UNREADABLE as error:
        raise _unreadable(where, error) from None
    if not isinstance(array, np.ndarray):
        raise DataError(f"a member must be an array, got {len(array)} other bytes ({where}).")
    return array


def _unreadable(where: str, error: BaseException) -> DataError:
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return DataError(
        f"file must hold a plain array of numbers, got: {reason} ({where}). Pickled objects are "
        "never loaded; save numbers with numpy.save."
    )
