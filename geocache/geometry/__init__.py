"""Geometry of local features: distances, trees, neighbourhoods and what is measured on them."""

from geocache.geometry.affinity import (
    affinity_contrast,
    affinity_contrast_from_mask,
    affinity_contrasts,
)
from geocache.geometry.distances import normalised_distances, squared_distances
from geocache.geometry.features import check_finite, flatten_grid
from geocache.geometry.knn import nearest_neighbours
from geocache.geometry.masks import knn_mask, neighbour_counts, tree_hops, tree_mask
from geocache.geometry.mst import minimum_spanning_tree

__all__ = [
    "affinity_contrast",
    "affinity_contrast_from_mask",
    "affinity_contrasts",
    "check_finite",
    "flatten_grid",
    "knn_mask",
    "minimum_spanning_tree",
    "nearest_neighbours",
    "neighbour_counts",
    "normalised_distances",
    "squared_distances",
    "tree_hops",
    "tree_mask",
]
