"""Settings of the whole process, for programs that own it: the command line and Dask's workers.

A library must not change its caller's process, so nothing here happens at import.
"""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["keep_freed_memory", "yield_idle_threads"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 2**30


def yield_idle_threads() -> None:
    """Let OpenMP's idle threads sleep; call it before torch is imported.

    They would spin for a while after each of torch's operations, on the cores that the geometry's
    own threads want: the AC step on two cores is 1.28 times cross-entropy's with, 1.12 without.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next allocation instead of handing it back.

    Each batch frees and takes the same few megabytes; handing them back costs page faults, half of
    a build's time under Dask (whose default is to hand back everything). Elsewhere than on glibc
    nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST)
    mallopt(_M_TRIM_THRESHOLD, _LARGEST)
