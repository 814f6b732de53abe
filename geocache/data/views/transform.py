"""Any transform of torchvision or of the user's own, replayed by seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float64, Shaped, UInt8
from torch import Tensor

from geocache.data.views._base import ViewPolicy
from geocache.errors import ConfigError, UnknownNameError, nearest
from geocache.registry import load_callable

__all__ = ["POLICY", "Transform"]


@dataclass(frozen=True)
class Transform(ViewPolicy):
    """Call a transform on each image with all random generators seeded by the view.

    `call` is `torchvision:NAME` for a class of torchvision.transforms.v2, or `module:callable` of
    the user's own; with `options` it returns the transform, which takes and returns a uint8 tensor
    (3, H, W) and draws from torch's, NumPy's or Python's global generator. The seed is stored, so
    the pixels are those of the teacher wherever the same version of the transform runs. One Python
    call an image: slower than the other policies. Raises ConfigError for a result of another type,
    UnknownNameError for an unknown name.
    """

    call: str
    options: dict[str, Any] = field(default_factory=dict)
    columns: ClassVar[tuple[str, ...]] = ("seed",)
    dtype: ClassVar[str] = "int64"
    n_draws: ClassVar[int] = 1

    @cached_property
    def _transform(self) -> Callable[[Tensor], Tensor]:
        module, _, name = self.call.partition(":")
        if module == "torchvision":
            from torchvision.transforms import v2

            made = getattr(v2, name, None)
            if made is None:
                known = tuple(n for n in v2.__all__) if hasattr(v2, "__all__") else tuple(dir(v2))
                raise UnknownNameError(
                    f"torchvision.transforms.v2 must have '{name}', got none.{nearest(name, known)}"
                )
        else:
            made = load_callable(self.call, "view transform")
        try:
            transform: Callable[[Tensor], Tensor] = made(**self.options)
        except TypeError as error:
            raise ConfigError(
                f"view transform '{self.call}' must take the options {self.options}, got: {error}."
            ) from None
        return transform

    def output_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the size of a black image's view."""
        black = torch.zeros(1, 3, *image_shape[:2], dtype=torch.uint8)
        height, width = self.apply(black, torch.zeros(1, 1, dtype=torch.int64)).shape[2:]
        return height, width, 3

    def parameters(
        self, draws: Float64[np.ndarray, "n draws"], image_shape: tuple[int, int, int]
    ) -> Shaped[np.ndarray, "n columns"]:
        """Return a seed for each image."""
        seeds: np.ndarray[Any, Any] = np.floor(draws * 2**31).astype(np.int64)
        return seeds

    def apply(
        self, images: UInt8[Tensor, "batch 3 h w"], parameters: Shaped[Tensor, "batch columns"]
    ) -> UInt8[Tensor, "batch 3 h2 w2"]:
        """Transform image by image, on the CPU."""
        views = []
        for image, seed in zip(images.cpu(), parameters[:, 0].tolist(), strict=True):
            with _seeded(int(seed)):
                view = self._transform(image)
            if not (
                isinstance(view, Tensor) and view.dtype == torch.uint8 and view.shape[:-2] == (3,)
            ):
                kind = f"{view.dtype} {tuple(view.shape)}" if isinstance(view, Tensor) else view
                raise ConfigError(
                    f"view transform '{self.call}' must return a uint8 tensor (3, H, W), got "
                    f"{kind}. Leave normalisation to [teacher] mean and std."
                )
            views.append(view)
        if len({view.shape for view in views}) > 1:
            raise ConfigError(
                f"view transform '{self.call}' must return images of one size, got "
                f"{sorted({tuple(view.shape[1:]) for view in views})}."
            )
        return torch.stack(views).to(images.device)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators, and put them back."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


POLICY = Transform
