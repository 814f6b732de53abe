"""Trees, hop neighbourhoods and k-NN against SciPy and scikit-learn, image by image."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse.csgraph import minimum_spanning_tree as scipy_tree
from scipy.sparse.csgraph import shortest_path
from scipy.spatial.distance import pdist, squareform
from sklearn.neighbors import NearestNeighbors

from benchmarks.ratio import Ratio, arguments, compare, report
from geocache.geometry import (
    affinity_contrasts,
    minimum_spanning_tree,
    nearest_neighbours,
    tree_mask,
)

RADIUS, K = 5, 16


def main() -> None:
    """Time a batch of 128 maps (ours) against single maps (theirs), an image each."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    ratios = []
    for n, channels in ((256, 32), (64, 64)):
        side = int(n**0.5)
        maps = torch.relu(torch.randn(128, channels, side, side, generator=generator))
        one = maps[0].flatten(1).T.double().numpy()

        def masks(maps: torch.Tensor = maps) -> object:
            return tree_mask(minimum_spanning_tree(maps), RADIUS)

        def contrast(maps: torch.Tensor = maps) -> object:
            return affinity_contrasts(maps, parents=minimum_spanning_tree(maps), radii=(RADIUS,))

        def lists(maps: torch.Tensor = maps) -> object:
            return nearest_neighbours(maps, K)

        def scipy_masks(one: np.ndarray[tuple[int, int], np.dtype[np.float64]] = one) -> object:
            tree = scipy_tree(squareform(pdist(one, "sqeuclidean")))
            hops = shortest_path(tree, directed=False, unweighted=True)
            return (hops >= 1) & (hops <= RADIUS)

        def sklearn_lists(one: np.ndarray[tuple[int, int], np.dtype[np.float64]] = one) -> object:
            return NearestNeighbors(n_neighbors=K).fit(one).kneighbors(return_distance=False)

        for name, ours, theirs, bar in (
            (f"mst + hop masks, N={n}, times SciPy's speed", masks, scipy_masks, None),
            (
                f"mst + hop neighbourhood sums, N={n}, times SciPy's speed",
                contrast,
                scipy_masks,
                100.0 if n == 256 else None,
            ),
            (f"k-NN k={K}, N={n}, times scikit-learn's speed", lists, sklearn_lists, None),
        ):
            _, ours_s, theirs_s = compare(ours, theirs, options.rounds)
            detail = f"{ours_s / 128 * 1e6:.0f} us against {theirs_s * 1e6:.0f} us an image"
            ratios.append(Ratio(name, theirs_s / (ours_s / 128), bar, True, detail))
    report(ratios, options.json)


if __name__ == "__main__":
    main()
