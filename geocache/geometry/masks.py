"""Dense neighbourhood masks, derived on demand from a tree or from neighbour lists.

Nothing in training needs them; they are for people and programs that want to look, and the plain
form against which the sums over the tree are tested.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from geocache.errors import ConfigError
from geocache.geometry._compile import over_images
from geocache.geometry._tree_kernels import hop_counts

__all__ = ["knn_mask", "neighbour_counts", "not_a_tree", "tree_hops", "tree_mask"]


def tree_hops(parents: Int[Tensor, "batch n"]) -> Int[Tensor, "batch n n"]:
    """Compute g_ij, the number of hops between nodes on the tree (GeoReg eq 7). O(N^2) an image.

    Raises ConfigError when `parents` is not a tree whose root is its own parent.
    """
    trees = parents.detach().to("cpu", torch.int32).contiguous()
    batch, n = trees.shape
    hops = torch.empty(batch, n, n, dtype=torch.int32)
    valid = torch.empty(batch, dtype=torch.bool)
    over_images(hop_counts, batch, trees.numpy(), hops.numpy(), valid.numpy())
    if not bool(valid.all()):
        raise not_a_tree(valid)
    return hops.to(parents.device)


def tree_mask(parents: Int[Tensor, "batch n"], radius: int | None) -> Bool[Tensor, "batch n n"]:
    """Return m_ij = 1 <= g_ij <= radius (GeoReg eq 7), symmetric; radius None reaches everything.

    Raises ConfigError when `parents` is not a tree.
    """
    hops = tree_hops(parents)
    mask = hops >= 1
    return mask if radius is None else mask & (hops <= radius)


def knn_mask(
    neighbours: Int[Tensor, "batch n k_max"], k: int | None = None
) -> Bool[Tensor, "batch n n"]:
    """Return m_ij = 1 for the first k nodes j on the list of i; not symmetric."""
    batch, n, k_max = neighbours.shape
    mask = torch.zeros(batch, n, n, dtype=torch.bool, device=neighbours.device)
    return mask.scatter_(2, neighbours[:, :, : k_max if k is None else k].long(), True)


def neighbour_counts(parents: Int[Tensor, "batch n"], radius: int | None) -> Int[Tensor, "batch n"]:
    """Count the neighbours of each feature, sum_j m_ij (GeoReg Table 3)."""
    return tree_mask(parents, radius).sum(dim=2)


def not_a_tree(valid: Bool[Tensor, " batch"]) -> ConfigError:
    """Build the error for parents that do not form a tree."""
    bad = int((~valid).nonzero()[0])
    return ConfigError(
        "parents must form a tree whose one root is its own parent, got something else "
        f"(image {bad} of the batch). The array may be damaged or be no `mst` target."
    )
