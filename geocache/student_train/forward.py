"""The student's forward as the recipe wants it: mixed precision, memory format, compiled.

Only the student runs in lower precision. What its terms compare is brought back to float32 first,
and the weights stay float32 throughout (mixed precision, Micikevicius et al. 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from geocache.errors import ConfigError
from geocache.models import Taps
from geocache.student_train.train_table import TrainTable

__all__ = ["Forward", "check_precision"]

_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(table: TrainTable, device: torch.device) -> None:
    """Raise ConfigError for a precision that the device does not train in."""
    if table.precision == "fp16" and device.type != "cuda":
        raise ConfigError(
            f"train.precision must be 'float32' or 'bf16' on {device.type}, got 'fp16', whose "
            "gradients are scaled on CUDA alone. Write precision = 'bf16'."
        )


class Forward:
    """Run `model` on a batch's images: `with Forward(table, model, layers) as forward`.

    Called, it returns (logits, features by layer) as `Taps` does, in the table's precision.
    """

    def __init__(self, table: TrainTable, model: nn.Module, layers: Sequence[str]) -> None:
        self._table, self._model = table, model
        self._taps = _CompiledTaps(model, layers) if table.compile else Taps(model, layers)

    def __enter__(self) -> Forward:
        self._taps.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._taps.__exit__(kind, error, traceback)

    def __call__(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return (logits, features by layer) of one batch."""
        if self._table.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        if self._table.precision == "float32":
            return self._taps(images)
        with torch.autocast(images.device.type, dtype=_DTYPES[self._table.precision]):
            return self._taps(images)


class _CompiledTaps:
    """`Taps` that torch.compile takes in as one graph, and fuses the copies of the taps with.

    Paths are checked before by the plain forwards of `prepare`.
    """

    def __init__(self, model: nn.Module, paths: Sequence[str]) -> None:
        self._paths = tuple(paths)
        self._model = model
        self._seen: dict[str, list[Tensor]] = {}
        self._handles: list[RemovableHandle] = []
        self._run = torch.compile(self._forward)

    def __enter__(self) -> _CompiledTaps:
        names = dict.fromkeys(path.partition("#")[0] for path in self._paths)
        modules = dict(self._model.named_modules(remove_duplicate=False))
        self._handles = [modules[name].register_forward_hook(self._hook_of(name)) for name in names]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __call__(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits, seen = self._run(images)
        self._seen.clear()  # what is traced for another batch size must not find this graph
        return logits, {path: _call(seen, path) for path in self._paths}

    def _hook_of(self, name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            self._seen.setdefault(name, []).append(output.clone())

        return hook

    def _forward(self, images: Tensor) -> tuple[Tensor, dict[str, list[Tensor]]]:
        self._seen.clear()
        logits = self._model(images)
        return logits, {name: list(outputs) for name, outputs in self._seen.items()}


def _call(seen: dict[str, list[Tensor]], path: str) -> Tensor:
    name, _, number = path.partition("#")
    return seen[name][int(number or 1) - 1]
