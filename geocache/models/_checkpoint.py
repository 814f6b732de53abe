"""Load checkpoints as people save them, and name a model's weights by their content."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from geocache.errors import CheckpointError, MissingDataError
from geocache.models._archive import read_tensors

__all__ = ["load_weights", "state_digest"]

WRAPPING_KEYS = ("state_dict", "model", "model_state_dict")
WRAPPING_PREFIXES = ("module.", "_orig_mod.")
# A counter that only batch norm without momentum reads; older checkpoints lack it.
COUNTER = "num_batches_tracked"


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load the checkpoint at `path` into `model`, all of it or nothing.

    The file may hold the state dict itself or nest it under `state_dict`, `model` or
    `model_state_dict`; prefixes that DataParallel (`module.`) and torch.compile (`_orig_mod.`) put
    before every key are ignored on both sides, and so are absent batch norm counters. Nothing
    in the file is executed (`weights_only=True`).

    Raises MissingDataError when there is no such file; CheckpointError when it cannot be read,
    holds no state dict, or does not fit: missing, unexpected and wrong-shape keys are named.
    """
    path = Path(path)
    given = _unprefixed(_state_dict(_read(path), path))
    own = model.state_dict()
    expected = _unprefixed(own)
    missing = [k for k in expected if k not in given and not k.endswith(COUNTER)]
    unexpected = [k for k in given if k not in expected]
    wrong = [
        f"{k} {tuple(given[k].shape)} instead of {tuple(expected[k].shape)}"
        for k in expected
        if k in given and given[k].shape != expected[k].shape
    ]
    problems = [
        f"{len(keys)} {word}: {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}"
        for word, keys in (("missing", missing), ("unexpected", unexpected), ("wrong shape", wrong))
        if keys
    ]
    if problems:
        raise CheckpointError(
            f"checkpoint must fit the model {type(model).__name__}, got {'; '.join(problems)} "
            f"({path}). Check the model's name, its options and the number of classes."
        )
    names = dict(zip(expected, own, strict=True))
    model.load_state_dict({names[k]: given[k] for k in expected if k in given}, strict=False)


def state_digest(model: nn.Module) -> str:
    """Return the SHA-256 of a model's weights as 64 hexadecimal digits.

    Hashed are name, dtype, shape and little-endian bytes of each entry of the state dict, sorted by
    name: the same for any device, memory layout, file and wrapping prefix; batch norm's counter is
    left out. Cost O(parameters).

    Raises CheckpointError when the state holds something other than tensors.
    """
    digest = hashlib.sha256()
    state = _unprefixed(_state_dict(model.state_dict(), type(model).__name__))
    for name in sorted(state):
        if name.endswith(COUNTER):
            continue
        tensor = state[name].detach().cpu()
        header = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        digest.update(json.dumps(header).encode() + b"\n")
        digest.update(_little_endian(tensor))
    return digest.hexdigest()


def _little_endian(tensor: Tensor) -> bytes:
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    raw = tensor.reshape(-1).view(torch.uint8).numpy()
    if sys.byteorder == "big":
        raw = raw.reshape(-1, tensor.element_size())[:, ::-1]
    return raw.tobytes()


def _read(path: Path) -> object:
    if not path.is_file():
        fault = "is a folder" if path.is_dir() else "does not exist"
        raise MissingDataError(f"checkpoint must be a file, but {path} {fault}. Check the path.")
    try:
        return read_tensors(path)
    except Exception as error:
        # Damaged files fail in the unpickler with any kind of exception, and torch's text on
        # `weights_only` is a page that recommends to switch it off.
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        raise CheckpointError(
            f"checkpoint must be a file that torch.load reads with weights_only=True, got "
            f"{type(error).__name__}: {reason[:160]} ({path}). "
            "Save it again with torch.save(model.state_dict(), FILE)."
        ) from error


def _state_dict(content: object, where: Path | str) -> dict[str, Tensor]:
    keys: list[str] = []
    while isinstance(content, Mapping) and (inner := _wrapped(content)) is not None:
        content = inner
    if isinstance(content, Mapping) and content:
        state = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if len(state) == len(content):
            return state
        keys = [str(k) for k in content if k not in state]
    holds = f"entries that are no tensors: {', '.join(keys[:3])}" if keys else _describe(content)
    raise CheckpointError(
        f"checkpoint must hold a state dict, plain or under {', '.join(WRAPPING_KEYS)}, "
        f"got {holds} ({where}). Save it again with torch.save(model.state_dict(), FILE)."
    )


def _wrapped(content: Mapping[object, object]) -> object | None:
    for key in WRAPPING_KEYS:
        if isinstance(content.get(key), Mapping):
            return content[key]
    return None


def _describe(content: object) -> str:
    return "nothing" if content == {} else f"a {type(content).__name__}"


def _unprefixed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    cut = _prefix_length(state)
    return {name[cut:]: tensor for name, tensor in state.items()}


def _prefix_length(names: Iterable[str]) -> int:
    names = list(names)
    cut = 0
    while names:
        prefix = next((p for p in WRAPPING_PREFIXES if names[0].startswith(p, cut)), None)
        if prefix is None or not all(name.startswith(prefix, cut) for name in names):
            break
        cut += len(prefix)
    return cut
