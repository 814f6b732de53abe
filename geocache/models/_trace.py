"""Run a model for its shapes alone: on meta tensors, so that nothing is computed or allocated.

A model that meta tensors cannot run (it looks at values, or keeps tensors outside its state) runs
once on two black images instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

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
        return _record(model, lambda: _forward_on_meta(model, input_shape))
    except Exception:
        # Whatever meta tensors cannot do shows as any kind of exception; real ones decide.
        pass
    try:
        return _record(model, lambda: _forward_on_zeros(model, input_shape))
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


def _forward_on_meta(model: nn.Module, input_shape: tuple[int, int, int]) -> object:
    dtype, _ = _like(model)
    state = {
        name: tensor.to("meta")
        for name, tensor in chain(model.named_parameters(), model.named_buffers())
    }
    images = torch.empty(BATCH, *input_shape, dtype=dtype, device="meta")
    return functional_call(model, state, (images,))


def _forward_on_zeros(model: nn.Module, input_shape: tuple[int, int, int]) -> object:
    dtype, device = _like(model)
    with torch.random.fork_rng(enabled=device.type == "cpu", devices=[]):
        return model(torch.zeros(BATCH, *input_shape, dtype=dtype, device=device))


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
