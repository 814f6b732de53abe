"""Views of two images: each row is mixed with a partner, which its parameters name.

The teacher answers the mixture, so the partner has to be known when the cache is built, at hand
wherever the row is read, and used by nobody who may not see it. So rows are cut into cells of
`CELL_ROWS`, and a row's partner stands in its own cell: within one row group, so that no read goes
elsewhere, and what keeps cells together (a limit, the rows held out) keeps pairs together. In a
view every row of a cell is the partner of just one other, and CELL_ROWS - 1 views meet all pairs.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, Shaped, UInt8
from torch import Tensor

from geocache.data.layout import group_rows
from geocache.data.views._base import ViewPolicy, uniform_draws
from geocache.data.views._registry import build_policy
from geocache.errors import ConfigError

__all__ = ["CELL_ROWS", "MixPolicy", "cell_bounds", "partner_offsets"]

CELL_ROWS = 16
"""Rows of a cell; cells begin at the multiples of it, the last of a data set may be short."""
_MIX_KEY, _CELL_KEY = b"geocache mix 1", b"geocache mix cell 1"


def cell_bounds(start: int, stop: int, n_rows: int) -> tuple[int, int]:
    """Return the rows [low, high) of the cells that rows [start, stop) of `n_rows` lie in."""
    return start - start % CELL_ROWS, min(-(-stop // CELL_ROWS) * CELL_ROWS, n_rows)


def partner_offsets(
    digests: UInt8[np.ndarray, "n 32"], view: int, seed: int
) -> Int64[np.ndarray, " n"]:
    """Return, for rows of whole cells, how far behind each its partner stands (or before it: < 0).

    Each cell is turned by 1 to m - 1 of its m places, one further with every view, from a place
    that depends on its first sample. A cell of one row is its own partner.
    """
    position = np.arange(len(digests))
    first = position - position % CELL_ROWS
    size = np.minimum(CELL_ROWS, len(digests) - first)
    begin = uniform_draws(digests[::CELL_ROWS], 0, seed, 1, key=_CELL_KEY)[:, 0]
    others = np.maximum(size - 1, 1)
    turn = 1 + (np.floor(begin[position // CELL_ROWS] * others).astype(np.int64) + view) % others
    offsets: np.ndarray[Any, Any] = first + (position - first + turn) % size - position
    return offsets


@dataclass(frozen=True)
class MixPolicy(ViewPolicy):
    """Base of policies that mix each row's image with its partner's, both in a view by `base`.

    `base` is a policy's name, or a table of it and its options: `{policy = "crop_flip", pad = 4}`.
    A row's parameters are its own view's, its partner's view's, `partner` (where it stands, counted
    from the row), `weight` (the row's own part of the mixture and of its labels, in [0, 1]), and
    those of the mixture. `mix` makes the views; `apply` makes the row's own view alone.

    Weights are drawn from Beta(`alpha`, `alpha`); with `probability` an image is mixed at all.
    Raises ConfigError for an alpha outside (0, 100], a probability outside 0 to 1, a base that
    mixes itself, and (`check`) for images so large that a row group is less than a cell.
    """

    base: str | dict[str, Any] = "identity"
    alpha: float = 1.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        """Name the base in full, so that what is the same has one identity."""
        if not 0 < self.alpha <= 100 or not 0 <= self.probability <= 1:
            raise ConfigError(
                f"{self.name} must have an alpha above 0 and at most 100 and a probability from 0 "
                f"to 1, got {self.alpha} and {self.probability}."
            )
        table = {"policy": self.base} if isinstance(self.base, str) else dict(self.base)
        inner = build_policy(str(table.pop("policy", "identity")), table)
        if isinstance(inner, MixPolicy):
            raise ConfigError(
                f"views' base must show one image, got policy '{inner.name}'. Take another."
            )
        own = inner.columns
        columns = (*own, *(f"partner_{name}" for name in own), "partner", "weight", *self.columns)
        dtype = str(np.promote_types(inner.dtype, np.float32))
        # An instance's own, since they depend on the base.
        for name, value in (
            ("base", {"policy": inner.name, **inner.configuration}),
            ("columns", columns),
            ("dtype", dtype),
        ):
            object.__setattr__(self, name, value)

    @cached_property
    def inner(self) -> ViewPolicy:
        """The policy of the two views."""
        assert isinstance(self.base, dict), "__post_init__ names it in full"
        options = {name: value for name, value in self.base.items() if name != "policy"}
        return build_policy(self.base["policy"], options)

    def output_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return that of the base."""
        return self.inner.output_shape(image_shape)

    def whole(self, images: UInt8[Tensor, "batch 3 h w"]) -> UInt8[Tensor, "batch 3 h2 w2"]:
        """Return that of the base."""
        return self.inner.whole(images)

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Refuse what the base refuses, and row groups of less than a cell."""
        self.inner.check(image_shape)
        if group_rows(int(np.prod(image_shape))) < CELL_ROWS:
            raise ConfigError(
                f"views by {self.name} must have {CELL_ROWS} images in 64 MiB, got images of "
                f"{image_shape[0]} x {image_shape[1]}. Give a smaller size."
            )

    def draw(
        self,
        digests: UInt8[np.ndarray, "n 32"],
        view: int,
        seed: int,
        image_shape: tuple[int, int, int],
    ) -> Shaped[np.ndarray, "n columns"]:
        """Return the parameters of one view of rows that are whole cells, in their order."""
        own = self.inner.draw(digests, view, seed, image_shape)
        offset = partner_offsets(digests, view, seed)
        draws = uniform_draws(digests, view, seed, self.n_draws, key=_MIX_KEY)
        parts = (
            own,
            own[np.arange(len(digests)) + offset],
            offset[:, None],
            self.parameters(draws, image_shape),
        )
        return np.concatenate(parts, axis=1).astype(self.dtype)

    def beta(
        self, draws: Float64[np.ndarray, "n 1"], mixed: Float64[np.ndarray, "n 1"]
    ) -> Float64[np.ndarray, "n 1"]:
        """Turn uniform draws into weights, 1 where the draw `mixed` leaves an image alone."""
        from scipy.special import betaincinv

        weights = betaincinv(self.alpha, self.alpha, draws)
        return np.where(mixed < self.probability, weights, 1.0)

    def offsets(
        self, parameters: Shaped[np.ndarray, "batch columns"]
    ) -> Int64[np.ndarray, " batch"]:
        """Return where each row's partner stands, counted from the row."""
        return parameters[:, self._partner].astype(np.int64)

    def partners(
        self, rows: Int64[Tensor, " batch"], parameters: Shaped[Tensor, "batch columns"]
    ) -> Int64[Tensor, " batch"]:
        """Return the rows' partners."""
        return rows + parameters[:, self._partner].to(torch.int64)

    def weights(self, parameters: Shaped[Tensor, "batch columns"]) -> Float32[Tensor, " batch"]:
        """Return the rows' own parts of their mixtures."""
        return parameters[:, self._partner + 1].to(torch.float32)

    def alone(
        self, parameters: Shaped[np.ndarray, "rows columns"], rows: Shaped[np.ndarray, " rows"]
    ) -> Shaped[np.ndarray, "rows columns"]:
        """Return the parameters with `rows` (a mask) their own partners: nothing is mixed in."""
        n = len(self.inner.columns)
        changed = parameters.copy()
        changed[rows, n : 2 * n] = changed[rows, :n]
        changed[rows, 2 * n :] = 0
        changed[rows, self._partner + 1] = 1
        return changed

    def apply(
        self, images: UInt8[Tensor, "batch 3 h w"], parameters: Shaped[Tensor, "batch columns"]
    ) -> UInt8[Tensor, "batch 3 h2 w2"]:
        """Make the rows' own views, into which nothing is mixed yet."""
        return self.inner.apply(images, self._inner_parameters(parameters, 0))

    def mix(
        self,
        images: UInt8[Tensor, "batch 3 h w"],
        partners: UInt8[Tensor, "batch 3 h w"],
        parameters: Shaped[Tensor, "batch columns"],
    ) -> UInt8[Tensor, "batch 3 h2 w2"]:
        """Make the mixtures of images with those of their partners, on their device."""
        other = self.inner.apply(partners, self._inner_parameters(parameters, 1))
        return self.blend(self.apply(images, parameters), other, parameters[:, self._partner + 1 :])

    @abstractmethod
    def blend(
        self,
        images: UInt8[Tensor, "batch 3 h w"],
        partners: UInt8[Tensor, "batch 3 h w"],
        mixing: Shaped[Tensor, "batch mixing"],
    ) -> UInt8[Tensor, "batch 3 h w"]:
        """Mix two views by the weight and the parameters of the mixture."""

    @property
    def _partner(self) -> int:
        return 2 * len(self.inner.columns)

    def _inner_parameters(self, parameters: Tensor, which: int) -> Tensor:
        n = len(self.inner.columns)
        dtype = torch.from_numpy(np.empty(0, self.inner.dtype)).dtype
        return parameters[:, which * n : (which + 1) * n].to(dtype)
