"""Run a model once on two black images, for the shapes of what its layers return.

Real images and not meta tensors: a linear layer on meta tensors loads torch's compiler, which takes
seconds; two images of the sizes that small models see take a fraction of one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from geocache.errors import ShapeError

__all__ = ["BATCH", "Call", "trace"]

BATCH = 2


@dataclass(frozen=True)
class Call:
    """One call of a module: its path, which call of it (from 1), its class, its output's shape."""

    path: str
    number: int
    kind: str
    shape: tuple[int, ...] | None


def trace(
    model: nn.Module, input_shape: tuple[int, int, int]
) -> tuple[tuple[int, ...] | None, list[Call]]:
    """Return the shape of the model's output and every call of a module inside, in call order.

    Shapes include the batch, which is `BATCH` images; they are None where the output is not one
    tensor. The model is in eval mode meanwhile and comes back as it was; a call is listed when it
    returns, so a container comes after its parts.

    Raises ShapeError when the model cannot process images of `input_shape`.
    """
    try:
        return _record(model, lambda: _forward(model, input_shape))
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise ShapeError(
            f"model must accept images of {'x'.join(map(str, input_shape))}, but its forward "
            f"failed: {type(error).__name__}: {reason[0] if reason else 'no message'}. "
            "Resize the images or take another model."
        ) from error


def _record(
    model: nn.Module, forward: Callable[[], object]
) -> tuple[tuple[int, ...] | None, list[Call]]:
    calls: list[Call] = []
    counts: Counter[str] = Counter()

    def hook_for(path: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, _inputs: object, output: object) -> None:
            counts[path] += 1
            calls.append(Call(path, counts[path], type(module).__name__, _shape(output)))

        return hook

    handles = [
        module.register_forward_hook(hook_for(path))
        for path, module in model.named_modules()
        if path
    ]
    try:
        with _evaluating(model), torch.no_grad():
            return _shape(forward()), calls
    finally:
        for handle in handles:
            handle.remove()


def _shape(output: object) -> tuple[int, ...] | None:
    return tuple(output.shape) if isinstance(output, Tensor) else None


def _forward(model: nn.Module, input_shape: tuple[int, int, int]) -> object:
    dtype, device = _like(model)
    images = torch.zeros(BATCH, *input_shape, dtype=dtype, device=device)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.random.fork_rng(enabled=device.type == "cpu", devices=[]):
        return functional_call(model, buffers, (images,))


def _like(model: nn.Module) -> tuple[torch.dtype, torch.device]:
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return parameter.dtype, parameter.device
    return torch.float32, torch.device("cpu")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    # A user may have frozen some modules in eval mode, so each flag is put back by itself.
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training
