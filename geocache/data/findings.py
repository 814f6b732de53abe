"""What a look at a cache found, and how much of it was looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from geocache.data.objects import Objects
from geocache.errors import CacheError

__all__ = ["ROWS_ARRAYS", "Depth", "Finding", "Findings", "Look", "Repair", "repair_of"]

ROWS_ARRAYS = ("labels", "dataset_index", "sample_id")
"""What every cache says of its rows."""

Depth = Literal["quick", "full", "deep"]
Repair = Literal["rewrite", "recompute", "data set", "identity", "-"]
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Finding:
    """One object that is not as it should be.

    repair: what puts it right: `rewrite` from what the cache holds, `recompute` by the teacher,
    `data set` to take it from there, `identity` for the root, `-` where nothing is damaged.
    """

    key: str
    array: str | None
    rows: tuple[int, int] | None
    """First row and the one after the last."""
    what: str
    repair: Repair

    @property
    def damage(self) -> bool:
        """Whether the cache is damaged; leftovers and unknown files are not read by anyone."""
        return self.repair != "-"


@dataclass(frozen=True)
class Findings:
    """What was found, damage first."""

    n_objects: int
    """Objects that were held against what vouches for them."""
    n_bytes: int
    """Bytes that were read and held against a checksum or another copy."""
    findings: tuple[Finding, ...]

    @property
    def damage(self) -> tuple[Finding, ...]:
        """The findings that are damage."""
        return tuple(finding for finding in self.findings if finding.damage)


@dataclass
class Look:
    """A look at a cache's objects that is under way."""

    objects: Objects
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes of every object by key."""
    key: str | None = None
    """The cache's key, None where its root document cannot be trusted."""
    findings: list[Finding] = field(default_factory=list)
    vouched: set[str] = field(default_factory=set)
    """Keys that were held against something."""
    read: set[str] = field(default_factory=set)
    """Keys whose bytes were read for it."""

    def add(
        self, key: str, array: str | None, rows: tuple[int, int] | None, what: str, repair: Repair
    ) -> None:
        """Note a finding."""
        self.vouched.add(key)
        self.findings.append(Finding(key, array, rows, what, repair))

    def fetch(self, key: str) -> bytes | None:
        """Return an object that will be checked, None where it is missing or unreadable."""
        self.vouched.add(key)
        if key not in self.sizes:
            return None
        try:
            data = self.objects.get(key)
        except CacheError:
            return None
        self.read.add(key)
        return data

    def result(self) -> Findings:
        """Return what was found."""
        ordered = sorted(self.findings, key=lambda f: (not f.damage, f.key))
        n_bytes = sum(self.sizes[key] for key in self.read)
        return Findings(len(self.vouched & self.sizes.keys()), n_bytes, tuple(ordered))


def repair_of(array: str) -> Repair:
    """Return what brings rows of an array back."""
    from_data_set = array in (*ROWS_ARRAYS, "images", "valid") or array.startswith("eval/")
    return "data set" if from_data_set else "recompute"
