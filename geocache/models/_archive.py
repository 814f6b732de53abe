"""Read the tensors of a file without running anything in it, and without letting it expand.

torch's files are ZIP archives whose records are stored as they are. One whose records are
compressed, or say that they are larger than the file, is a bomb: torch would allocate what they
say. Files of the older kind are read straight from the disk, so they cannot expand.
"""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import torch

__all__ = ["read_tensors"]


def read_tensors(path: Path) -> object:
    """Return what `torch.save` wrote, on the CPU, with `weights_only=True`.

    Raises whatever torch does for what is no such file, ValueError for an archive that expands.
    """
    if zipfile.is_zipfile(path):
        _check_archive(path)
    with warnings.catch_warnings():  # Other writers' pickles may still be plain state dicts.
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        return torch.load(path, map_location="cpu", weights_only=True)


def _check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    compressed = [record.filename for record in records if record.compress_type]
    if compressed:
        raise ValueError(f"record {compressed[0]!r:.60} is compressed, which torch never does")
    n_bytes = sum(record.file_size for record in records)
    if n_bytes > path.stat().st_size:
        raise ValueError(f"its records claim {n_bytes} bytes, more than the file has")
