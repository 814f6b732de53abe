"""Which views of a data set: a policy, the seed of its draws, and how many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from geocache.data.identity import ViewIdentity
from geocache.data.views._base import ViewPolicy
from geocache.data.views._mix import MixPolicy
from geocache.data.views._registry import build_policy
from geocache.data.views.identity import Identity
from geocache.errors import ConfigError

__all__ = ["ViewSet", "make_views", "view_set_of", "views_of"]


@dataclass(frozen=True)
class ViewSet:
    """`count` views of each image by `policy`, drawn with `seed`.

    Raises ConfigError for a count below 1, and for several views that are all the same.
    """

    policy: ViewPolicy = field(default_factory=Identity)
    seed: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        """Refuse counts and seeds that mean nothing."""
        if self.count < 1 or not 0 <= self.seed < 2**63:
            raise ConfigError(
                f"views must have a count from 1 up and a seed from 0 up, got {self.count} and "
                f"{self.seed}."
            )
        if self.count > 1 and not self.policy.n_draws:
            raise ConfigError(
                f"views' count must be 1 with policy '{self.policy.name}', whose views are all the "
                f"same, got {self.count}. Choose a policy that draws, such as crop_flip."
            )

    @property
    def mixing(self) -> MixPolicy | None:
        """The policy where it mixes each image with its partner's."""
        return self.policy if isinstance(self.policy, MixPolicy) else None

    @property
    def is_plain(self) -> bool:
        """Whether the views are the images themselves."""
        return isinstance(self.policy, Identity)

    def identity(self) -> ViewIdentity:
        """Return what of it names a cache: all but the count, which may grow."""
        if self.is_plain:
            return ViewIdentity()
        options = {**self.policy.configuration, "seed": self.seed}
        return ViewIdentity(self.policy.name, options)

    def parameters(
        self, digests: UInt8[np.ndarray, "n 32"], view: int, image_shape: tuple[int, int, int]
    ) -> Shaped[np.ndarray, "n columns"]:
        """Return the parameters of one view of each sample; mixed rows come as whole cells."""
        return self.policy.draw(digests, view, self.seed, image_shape)


def view_set_of(identity: Mapping[str, Any], count: int = 1) -> ViewSet:
    """Return the views of a cache from its identity.

    Raises ConfigError where the policy calls a module of the user's own: a recipe has to name it.
    """
    options = dict(identity["parameters"])
    seed = int(options.pop("seed", 0))
    tables = [table for table in (options, options.get("base")) if isinstance(table, Mapping)]
    calls = [str(table.get("call", "torchvision:")) for table in tables]
    call = next((call for call in calls if not call.startswith("torchvision:")), None)
    if call is not None:
        raise ConfigError(
            f"views by '{call}' must be asked for by name, since that module would be imported: "
            "give the same [data] views in a recipe."
        )
    return ViewSet(build_policy(identity["policy"], options), seed, count)


def make_views(
    policy: ViewPolicy,
    images: UInt8[np.ndarray, "batch height width 3"],
    parameters: Shaped[np.ndarray, "batch columns"],
    partners: UInt8[np.ndarray, "batch height width 3"] | None = None,
) -> UInt8[np.ndarray, "batch height2 width2 3"]:
    """Make the views of images as they are stored, channels last, mixed with their `partners`."""
    views = views_of(
        policy, _channels_first(images), torch.from_numpy(parameters),
        None if partners is None else _channels_first(partners),
    )  # fmt: skip
    made: np.ndarray[Any, Any] = views.permute(0, 2, 3, 1).contiguous().numpy()
    return made


def views_of(
    policy: ViewPolicy,
    images: UInt8[Tensor, "batch 3 h w"],
    parameters: Shaped[Tensor, "batch columns"],
    partners: UInt8[Tensor, "batch 3 h w"] | None,
) -> UInt8[Tensor, "batch 3 h2 w2"]:
    """Make views on the images' device; policies that mix need the images of the partners."""
    if isinstance(policy, MixPolicy):
        assert partners is not None, "who reads rows reads their partners"
        return policy.mix(images, partners, parameters)
    return policy.apply(images, parameters)


def _channels_first(images: UInt8[np.ndarray, "batch height width 3"]) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)
