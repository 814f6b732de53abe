"""A kernel gives the same bits in the process that compiles it and in those that load it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import geocache

PROGRAM = """
import hashlib, torch
from geocache.geometry import affinity_contrasts, minimum_spanning_tree
torch.set_num_threads(1)
x = torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(0)).relu()
parents = minimum_spanning_tree(x)
j = affinity_contrasts(x, parents=parents, radii=(2, 5, 10))
print(hashlib.sha256(j.numpy().tobytes() + parents.numpy().tobytes()).hexdigest())
"""


def test_compiling_and_loading_processes_agree(tmp_path: Path) -> None:
    # Resumed builds must end with the bytes of undisturbed ones, and Dask's with the serial ones.
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": str(Path(geocache.__file__).parents[1]),
    }
    hashes = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    assert list(tmp_path.rglob("*.nbi"))
    assert hashes[0] == hashes[1]
