"""What geocache runs on: Python, libraries, device, threads."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import torch

from geocache.data.finding import Finding

__all__ = ["check_environment"]

_LIBRARIES = (
    "torch",
    "torchvision",
    "numpy",
    "zarr",
    "numcodecs",
    "dask",
    "distributed",
    "numba",
    "scipy",
    "lightning-fabric",
)
_POLICY = "OMP_WAIT_POLICY"


def check_environment() -> list[Finding]:
    """Return findings on Python, the libraries, the device and the threads."""
    found = [Finding("python", "ok", f"{platform.python_version()} on {sys.platform}")]
    for name in _LIBRARIES:
        try:
            found.append(Finding(name, "ok", version(name)))
        except PackageNotFoundError:
            remedy = "Run `pip install geocache` again."
            found.append(Finding(name, "problem", "not installed", remedy))
    return [*found, _device(), _threads(), _waiting()]


def _device() -> Finding:
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding("device", "ok", f"cuda: {', '.join(names)}")
    return Finding("device", "ok", "cpu; torch sees no GPU")


def _threads() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = f"torch uses {torch.get_num_threads()} of {cores} cores"
    if torch.get_num_threads() > (cores or 1):
        return Finding("threads", "warning", text, "Set OMP_NUM_THREADS to the cores you have.")
    return Finding("threads", "ok", text)


def _waiting() -> Finding:
    policy = os.environ.get(_POLICY, "")
    if policy.upper() == "PASSIVE":
        return Finding("idle threads", "ok", f"sleep ({_POLICY}={policy})")
    return Finding(
        "idle threads",
        "warning",
        f"may spin ({_POLICY}={policy or 'unset'})",
        f"Set {_POLICY}=PASSIVE before Python starts: training on few cores is faster.",
    )
