"""Geometry of local features: distances, trees, neighbourhoods and what is measured on them."""

from geocache.geometry.affinity import (
    affinity_contrast,
    affinity_contrast_from_distances,
    affinity_contrast_from_mask,
    affinity_contrasts,
)
from geocache.geometry.channels import (
    attention_distance,
    attention_map,
    channel_gram,
    gram_distance,
    normalised_channels,
)
from geocache.geometry.distances import normalised_distances, squared_distances
from geocache.geometry.features import check_finite, flatten_grid
from geocache.geometry.grids import to_grid
from geocache.geometry.knn import nearest_neighbours
from geocache.geometry.manifold import manifold_distance
from geocache.geometry.masks import knn_mask, neighbour_counts, tree_hops, tree_mask
from geocache.geometry.mst import minimum_spanning_tree
from geocache.geometry.normalise import unit_length
from geocache.geometry.pattern import pattern_difference

__all__ = [
    "affinity_contrast",
    "affinity_contrast_from_distances",
    "affinity_contrast_from_mask",
    "affinity_contrasts",
    "attention_distance",
    "attention_map",
    "channel_gram",
    "check_finite",
    "flatten_grid",
    "gram_distance",
    "knn_mask",
    "manifold_distance",
    "minimum_spanning_tree",
    "nearest_neighbours",
    "neighbour_counts",
    "normalised_channels",
    "normalised_distances",
    "pattern_difference",
    "squared_distances",
    "to_grid",
    "tree_hops",
    "tree_mask",
    "unit_length",
]
