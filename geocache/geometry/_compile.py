"""Compile per-image kernels and spread them over images.

Kernels are plain loops over `range(start, stop)` of a batch, compiled by numba without the
interpreter lock and run on threads of our own. numba's own parallel loops are left alone on
purpose: their fallback thread layer dies when two threads enter it at once (Dask does that), and a
second pool of workers would fight torch's for the same cores. Images are independent, so the split
changes no bit of the result.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import torch

__all__ = ["compiled", "compiled_sum", "fused", "kernel", "over_images"]

F = TypeVar("F", bound=Callable[..., Any])

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def _forget_stale_kernels() -> None:
    """Drop compiled kernels that any source of this folder has outgrown.

    numba looks at the file of a kernel alone, but a kernel holds the code of those that it calls in
    other files: after an edit there it would go on with the old one, silently.
    """
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for source in sorted(folder.glob("*.py")):
        digest.update(source.read_bytes())
    stamp = folder / "__pycache__" / "kernels.sha256"
    now = digest.hexdigest()
    # A folder that cannot be written holds an installed package, whose files change all at once.
    with contextlib.suppress(OSError):
        if stamp.exists() and stamp.read_text() == now:
            return
        for index in stamp.parent.glob("*.nbi"):
            index.unlink(missing_ok=True)
        stamp.parent.mkdir(exist_ok=True)
        stamp.write_text(now)


_forget_stale_kernels()


def kernel(function: F) -> F:
    """Compile an entry point on first use: no interpreter lock, no fast-math, kept on disk."""
    return cast("F", numba.njit(nogil=True, cache=True, error_model="numpy")(function))


def fused(function: F) -> F:
    """Compile an entry point where a product and a sum may be one instruction, rounded once."""
    compile_it = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
    return cast("F", compile_it(function))


def compiled(function: F) -> F:
    """Compile a function into every kernel that calls it.

    Always inlined, never kept on disk by itself. Otherwise a process that compiles and one that
    loads may run different machine code for it: several times slower, and, where sums may be
    reordered, with other last bits.
    """
    return cast("F", numba.njit(nogil=True, error_model="numpy", forceinline=True)(function))


def compiled_sum(function: F) -> F:
    """Compile a reduction whose terms may be added in any order, in vector registers.

    The order is the compiler's: equal on equal processors, not on all.
    """
    reordered = {"reassoc", "contract"}
    compile_it = numba.njit(nogil=True, error_model="numpy", forceinline=True, fastmath=reordered)
    return cast("F", compile_it(function))


def over_images(function: Callable[..., Any], n_images: int, *arguments: Any) -> None:
    """Call `function(start, stop, *arguments)` over [0, n_images) on torch's number of threads."""
    n_threads = min(torch.get_num_threads(), n_images)
    if n_threads <= 1:
        function(0, n_images, *arguments)
        return
    bounds = [n_images * i // n_threads for i in range(n_threads + 1)]
    pool = _pool(n_threads - 1)
    futures = [
        pool.submit(function, bounds[i], bounds[i + 1], *arguments) for i in range(1, n_threads)
    ]
    function(0, bounds[1], *arguments)
    for future in futures:
        future.result()


def _pool(n_threads: int) -> ThreadPoolExecutor:
    """Return this process's pool; a forked child must not inherit its parent's threads."""
    key = (os.getpid(), n_threads)
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(n_threads, thread_name_prefix="geocache-geometry")
    return _pools[key]
