"""What a view is: an augmentation whose parameters are drawn once, stored, and redone by anyone.

A cached answer is right only for the pixels that the teacher saw. So a view's parameters are a
function of (seed, sample, number of the view) and stand in the cache; teacher and student make
their pixels from the same stored image with the same function.
"""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float64, Shaped, UInt8
from torch import Tensor

__all__ = ["ViewPolicy", "uniform_draws"]

_KEY = b"geocache view 1"
_MAX_DRAWS = 8


@dataclass(frozen=True)
class ViewPolicy(ABC):
    """An augmentation: a frozen dataclass, one a file, whose fields are part of the cache's key.

    `columns` names the parameters of a view of one image, `dtype` is the type they are stored in.
    """

    columns: ClassVar[tuple[str, ...]]
    dtype: ClassVar[str]
    n_draws: ClassVar[int]
    """Uniform numbers that one view takes, at most 8."""

    @abstractmethod
    def parameters(
        self, draws: Float64[np.ndarray, "n draws"], image_shape: tuple[int, int, int]
    ) -> Shaped[np.ndarray, "n columns"]:
        """Turn uniform numbers in [0, 1) into parameters of images of (height, width, 3)."""

    @abstractmethod
    def apply(
        self, images: UInt8[Tensor, "batch 3 h w"], parameters: Shaped[Tensor, "batch columns"]
    ) -> UInt8[Tensor, "batch 3 h2 w2"]:
        """Make the views of a batch, on its device."""

    def output_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the (height, width, 3) of the views of images of this shape."""
        return image_shape

    def check(self, image_shape: tuple[int, int, int]) -> None:  # noqa: B027 most need none
        """Raise ConfigError where the policy is not defined on images of this shape."""

    def whole(self, images: UInt8[Tensor, "batch 3 h w"]) -> UInt8[Tensor, "batch 3 h2 w2"]:
        """Bring images to the views' size without augmentation, as validation wants them."""
        return images

    def draw(
        self,
        digests: UInt8[np.ndarray, "n 32"],
        view: int,
        seed: int,
        image_shape: tuple[int, int, int],
    ) -> Shaped[np.ndarray, "n columns"]:
        """Return the parameters of one view of each sample, in the stored type."""
        draws = uniform_draws(digests, view, seed, self.n_draws)
        return self.parameters(draws, image_shape).astype(self.dtype)

    @property
    def name(self) -> str:
        """The registered name: the module's."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def configuration(self) -> dict[str, Any]:
        """Its fields, as they go into the identity."""
        return {
            f.name: list(value) if isinstance(value := getattr(self, f.name), tuple) else value
            for f in dataclasses.fields(self)
        }


def uniform_draws(
    digests: UInt8[np.ndarray, "n 32"], view: int, seed: int, n: int, *, key: bytes = _KEY
) -> Float64[np.ndarray, "n draws"]:
    """Return n uniform numbers in [0, 1) for each sample: a function of (key, seed, sample, view).

    They are the 53 leading bits of 64-bit words of a keyed BLAKE2b, so they are the same on every
    machine and for every order of the samples. O(samples).
    """
    assert 0 <= n <= _MAX_DRAWS, "BLAKE2b gives 64 bytes"
    if n == 0:
        return np.zeros((len(digests), 0))
    salt = view.to_bytes(8, "little") + seed.to_bytes(8, "little")
    words = np.empty((len(digests), n), "<u8")
    for row, digest in enumerate(digests):
        hashed = hashlib.blake2b(digest.tobytes(), digest_size=8 * n, key=key, salt=salt).digest()
        words[row] = np.frombuffer(hashed, "<u8")
    return (words >> 11) * 2.0**-53
