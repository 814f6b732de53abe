"""How much memory the loader may fill: what the user says, else half of what is free."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from geocache.errors import ConfigError
from geocache.student_train.shared import Peers, can_share

__all__ = ["Budget", "budget_bytes", "free_bytes", "in_units", "loader_budget", "parse_bytes"]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)


def parse_bytes(size: int | str) -> int:
    """Return a number of bytes from a number or a text such as `4GB`, `512 MiB`.

    Raises ConfigError for anything else, and for sizes below one byte.
    """
    n_bytes = 0
    if isinstance(size, int):
        n_bytes = size
    elif (match := _TEXT.fullmatch(size)) and (match[2] or not match[3]):
        units = _BINARY if match[3] else _UNITS
        n_bytes = int(float(match[1]) * units[match[2].lower()])
    if n_bytes < 1:
        raise ConfigError(
            f"memory must be a number of bytes or a size such as '4GB', got {size!r}. "
            "Leave it out for half of what is free."
        )
    return n_bytes


def in_units(n_bytes: float) -> str:
    """Return a size as people read it: `134 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 999.5:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"


def free_bytes(device: torch.device) -> int:
    """Return the bytes that a device could still give: RAM within the container's limit, or GPU."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_free_ram(), _free_in_container())


def budget_bytes(memory: int | str | None, device: torch.device, n_local_ranks: int) -> int:
    """Return what one process may fill: `memory`, by default half of what is free, by its share.

    The ranks of one machine share its RAM evenly; those on the same GPU share that GPU.
    """
    whole = free_bytes(device) // 2 if memory is None else parse_bytes(memory)
    if device.type == "cuda":
        n_local_ranks = -(-n_local_ranks // max(torch.cuda.device_count(), 1))
    return max(whole // max(n_local_ranks, 1), 1)


@dataclass(frozen=True)
class Budget:
    """What a loader may fill: `own` bytes for this process alone, `resident` for whole arrays.

    peers: processes that hold the whole arrays together with this one, None where each has its own.
    limit: where the numbers come from, in words.
    """

    own: int
    resident: int
    peers: Peers | None
    limit: str


def loader_budget(
    memory: int | str | None, device: torch.device, n_local_ranks: int, peers: Peers | None
) -> Budget:
    """Return the budget of a loader, the same on all peers.

    Rows in RAM that the peers hold together have the whole of the memory, not a rank's share.
    """
    own, whole = (budget_bytes(memory, device, n) for n in (n_local_ranks, 1))
    if peers is not None:
        # Each measures other free memory, but all must choose alike.
        own, whole = peers.least(own), peers.least(whole)
    limit = "the memory allowed" if memory is not None else "the free memory (half of it)"
    if peers is None or device.type != "cpu" or not can_share():
        return Budget(own, own, None, limit)
    return Budget(own, whole, peers, limit)


def _free_ram() -> int:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        return int(re.findall(r"MemAvailable:\s+(\d+) kB", text)[0]) * 1024
    except (OSError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return 8 * 2**30  # Neither Linux nor POSIX tells: assume a small machine.


def _free_in_container() -> int:
    """Return what a control group leaves, for containers see the RAM of their whole host."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        return max(int(limit) - used, 0)
    except (OSError, ValueError):
        return 2**62
