"""Read any layer of a model by its dotted path.

A forward hook sees a module's output at the moment it returns. Networks then often change that
tensor in place (`nn.ReLU(inplace=True)`, `x += shortcut`), and the reader would find something
else than the layer returned. A copy of every tap would cost memory and time on each step, so taps
learn: the first forward copies each one and watches torch's version counter of the original; later
forwards copy only those whose counter moved.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from types import TracebackType

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from geocache.errors import ConfigError, ShapeError, UnknownNameError, nearest

__all__ = ["Taps"]


class Taps:
    """Run `model` and return its logits together with what the layers at `paths` returned.

        with Taps(model, ["conv2", "relu#2"]) as taps:
            logits, features = taps(images)

    A path is that of a module (`layer2.0.bn1`); `relu#2` is the second call of a module that one
    forward calls several times. Features are what the module returned, before anything changed it
    in place, and are part of the autograd graph. Costs nothing beyond the forward, but for a copy
    of each tap in the first forward, of those changed in place later on, and of all of them in
    inference mode, where torch counts no versions. Not for use from two threads at once.

    Args:
        model: any module; it is left as it was on leaving the `with` block.
        paths: layers to read; see `geocache layers MODEL`.

    Raises UnknownNameError for a path that the model does not have.
    """

    def __init__(self, model: nn.Module, paths: Iterable[str]) -> None:
        """Check the paths; hooks are placed on entering the `with` block."""
        self.model = model
        self.paths = tuple(dict.fromkeys(paths))
        modules = dict(model.named_modules(remove_duplicate=False))
        known = tuple(name for name in modules if name)
        self._wanted: dict[nn.Module, list[tuple[str, int]]] = {}
        self._explicit: set[str] = set()
        for path in self.paths:
            name, number = _parse(path)
            if not name or name not in modules:
                raise UnknownNameError(
                    f"layer must be a module of {type(model).__name__}, got '{path}'."
                    f"{nearest(name, known)} `geocache layers MODEL` lists them."
                )
            self._wanted.setdefault(modules[name], []).append((path, number or 1))
            if number is not None:
                self._explicit.add(path)
        # What was seen to change in place, by (training, gradients on): code may branch on both.
        self._changed: dict[tuple[bool, bool], set[str]] = {}
        self._handles: list[RemovableHandle] = []
        self._record: _Record | None = None

    def __enter__(self) -> Taps:
        """Place the hooks."""
        self._handles = [module.register_forward_hook(self._hook) for module in self._wanted]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __call__(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return (logits, features by path) of one forward.

        Raises ShapeError when the model or a tapped layer does not return one tensor, ConfigError
        when a layer did not run, or ran several times and the path does not say which.
        """
        assert self._handles or not self.paths, "use Taps in a `with` block"
        mode = (self.model.training, torch.is_grad_enabled())
        record, logits = self._forward(images, self._changed.get(mode))
        surprises = record.changed() - record.copied
        if surprises:
            # A branch not taken before changed a tap that was not copied: its value is lost.
            self._changed[mode] |= surprises
            record, logits = self._forward(images, self._changed[mode])
        elif mode not in self._changed:
            self._changed[mode] = record.changed()
        self._check(record)
        if not isinstance(logits, Tensor):
            raise ShapeError(
                f"model {type(self.model).__name__} must return one tensor of logits, "
                f"got {type(logits).__name__}. Wrap it in a module that picks them."
            )
        return logits, {path: record.features[path] for path in self.paths}

    def _forward(self, images: Tensor, copy: set[str] | None) -> tuple[_Record, object]:
        record = self._record = _Record(copy)
        try:
            return record, self.model(images)
        finally:
            self._record = None

    def _hook(self, module: nn.Module, _inputs: object, output: object) -> None:
        record = self._record
        if record is None:
            return
        record.n_calls[module] += 1
        for path, number in self._wanted[module]:
            if record.n_calls[module] == number:
                if not isinstance(output, Tensor):
                    raise ShapeError(
                        f"layer '{path}' must return one tensor to be tapped, "
                        f"got {type(output).__name__}. Tap a layer inside or after it."
                    )
                record.keep(path, output)

    def _check(self, record: _Record) -> None:
        for module, taps in self._wanted.items():
            n_calls = record.n_calls[module]
            for path, number in taps:
                name, _ = _parse(path)
                choices = ", ".join(f"{name}#{k}" for k in range(1, n_calls + 1))
                if n_calls == 0:
                    raise ConfigError(
                        f"layer '{path}' must run in the forward, but it is never called. "
                        "Tap a layer that is (`geocache layers MODEL` lists them)."
                    )
                if number > n_calls or (n_calls > 1 and path not in self._explicit):
                    raise ConfigError(
                        f"layer '{path}' must name one call of a module that runs {n_calls} "
                        f"time{'s' if n_calls > 1 else ''} in a forward. Write one of {choices}."
                    )


class _Record:
    """What one forward's hooks saw; `copy` holds the paths to copy, None for all."""

    def __init__(self, copy: set[str] | None) -> None:
        self.features: dict[str, Tensor] = {}
        self.copied: set[str] = set()
        self.n_calls: Counter[nn.Module] = Counter()
        self._copy = copy
        self._seen: dict[str, tuple[Tensor, int]] = {}

    def keep(self, path: str, output: Tensor) -> None:
        if not output.is_inference():
            self._seen[path] = (output, output._version)
        if output.is_inference() or self._copy is None or path in self._copy:
            self.copied.add(path)
            output = output.clone()
        self.features[path] = output

    def changed(self) -> set[str]:
        """Return the paths whose tensor was changed in place after its module returned it."""
        return {p for p, (tensor, version) in self._seen.items() if tensor._version != version}


def _parse(path: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(.+)#([1-9][0-9]*)", path)
    return (match[1], int(match[2])) if match else (path, None)
