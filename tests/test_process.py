"""The settings that the command line makes for its own process, seen from outside."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from geocache.process import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def use():
    block = bytearray(8 * 2**20)
    del block
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _run(program: str, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_kept() -> None:
    assert int(_run(FAULTS, "kept")) < 2000 < 20 * 8 * 2**20 // 4096


def test_idle_threads_yield_unless_the_user_says_otherwise() -> None:
    program = (
        "import os, sys; from geocache.process import yield_idle_threads as f; "
        "os.environ.pop('OMP_WAIT_POLICY', None) if len(sys.argv) < 2 else "
        "os.environ.update(OMP_WAIT_POLICY=sys.argv[1]); f(); print(os.environ['OMP_WAIT_POLICY'])"
    )
    assert _run(program).strip() == "PASSIVE"
    assert _run(program, "ACTIVE").strip() == "ACTIVE"
