"""Checkpoints: tensors and primitives only, written so that a crash leaves the old one or the new.

A file is written beside its final name, synced, then renamed over it, and the folder is synced;
it loads with `weights_only=True`, so nothing in it is executed. `model` is a plain state dict,
which other programs and `load_weights` read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch

from geocache.errors import CheckpointError, StorageError
from geocache.models import read_tensors

__all__ = ["FORMAT", "load_checkpoint", "save_checkpoint"]

FORMAT = 1


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state` to `path` atomically and durably. Raises StorageError when the disk refuses."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        raise StorageError(
            f"checkpoint must be written to '{path}', but the disk refused: {error}. The previous "
            "one is unharmed; free space and run again with --resume."
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # Windows cannot open a folder; its rename is journalled
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, onto the CPU.

    Raises CheckpointError when the file is absent, damaged, or not such a checkpoint.
    """
    try:
        state = read_tensors(path)
    except FileNotFoundError:
        raise CheckpointError(
            f"run must hold {path.name}, got none ('{path.parent}'). Name the folder that "
            "`geocache train` wrote."
        ) from None
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        reason = reason[:160]
        raise CheckpointError(f"checkpoint must be readable, got '{path}': {reason}") from None
    if not _is_ours(state):
        raise CheckpointError(f"checkpoint must come from `geocache train`, got '{path}'.")
    if state["format"] != FORMAT:
        raise CheckpointError(
            f"checkpoint must have format {FORMAT}, got {state['format']} ('{path}'). "
            "Use the geocache version that wrote it."
        )
    return dict(state)


def _is_ours(state: object) -> TypeGuard[dict[str, Any]]:
    """Return whether this is a table with a format and a plain state dict."""
    if not isinstance(state, dict) or type(state.get("format")) is not int:
        return False
    model = state.get("model")
    return isinstance(model, dict) and all(isinstance(t, torch.Tensor) for t in model.values())
