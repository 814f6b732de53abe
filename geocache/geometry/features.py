"""Read an activation map as a set of local features.

`X` in R^(N x C) of GeoReg section 3: each of the N = H*W positions of one image is a vector of C
channels. Tensors keep torch's order, (batch, channels, *grid): one channel of all positions is
contiguous, which is what the distance kernels stream over.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from geocache.errors import NumericError, ShapeError

__all__ = ["check_finite", "flatten_grid"]


def flatten_grid(
    features: Float[Tensor, "batch channels *grid"],
) -> Float[Tensor, "batch channels n"]:
    """View (batch, channels, *grid) as (batch, channels, N); half precision becomes float32.

    Raises ShapeError when there is no grid: such a layer has one feature an image, no geometry.
    """
    if features.ndim < 3:
        raise ShapeError(
            f"local features must have shape (batch, channels, *grid), got "
            f"{tuple(features.shape)}. Choose a layer that has a spatial grid."
        )
    if features.dtype in (torch.float16, torch.bfloat16):
        features = features.float()
    return features.flatten(2)


def check_finite(features: Tensor, where: str) -> None:
    """Raise NumericError, naming `where` and the first bad image, if a value is NaN or infinite."""
    finite = torch.isfinite(features).flatten(1).all(dim=1)
    if not bool(finite.all()):
        bad = int((~finite).nonzero()[0])
        raise NumericError(
            f"activations must be finite, got NaN or infinity ({where}, image {bad} of the batch). "
            "Check the weights and the normalisation."
        )
