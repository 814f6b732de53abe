"""The hybrid kernel loss of information-flow distillation: cosine and Student-t neighbourhoods."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from geocache.errors import ConfigError
from geocache.student_train.losses._activations import Stored
from geocache.student_train.losses._batch_kernels import (
    Features,
    check_features,
    conditional,
    cosine_kernel,
    student_t_kernel,
)
from geocache.student_train.losses._feature_rows import FeatureRowsLoss

__all__ = ["HybridKernel"]

_EPSILON = 1e-7


@dataclass(frozen=True)
class HybridKernel(FeatureRowsLoss):
    """Jeffreys divergence on the cosine and on the Student-t kernel (InfoFlow eq 5-8).

    `L = D(P_T^c, P_S^c) + D(P_T^t, P_S^t)`, `D = mean_ij (p - q)(log p - log q)` over the B^2
    pairs (the authors' mean; eq 8 prints a sum). `K_c = (cos + 1) / 2`, `K_t = 1 / (1 + |a-b|^p)`:
    the authors' code has p = 1, the paper prints 2. The authors' code keeps the diagonal and
    divides rows, the paper leaves it out and divides by the column's sum: `diagonal`.

    The cosine part is invariant to scale. O(B^2 d).

    Arguments: `features`, "flattened" or "pooled"; `p` > 0; `diagonal`; `dtype`, how the flattened
    maps are stored. Raises ConfigError for others, ShapeError for a batch of one row.
    """

    features: Features = "flattened"
    p: float = 1.0
    diagonal: bool = True
    dtype: Stored = "float16"

    def __post_init__(self) -> None:
        check_features(self.features, "hybrid_kernel", self.dtype)
        if self.p <= 0:
            raise ConfigError(f"hybrid_kernel p must be above 0, got {self.p}.")

    def _distance(self, ours: Tensor, theirs: Tensor) -> Float[Tensor, ""]:
        cosine = self._divergence(cosine_kernel(theirs), cosine_kernel(ours))
        heavy = self._divergence(student_t_kernel(theirs, self.p), student_t_kernel(ours, self.p))
        return cosine + heavy

    def _divergence(self, theirs: Tensor, ours: Tensor) -> Tensor:
        p, q = conditional(theirs, self.diagonal), conditional(ours, self.diagonal)
        logs = torch.log(p.clamp_min(_EPSILON)) - torch.log(q.clamp_min(_EPSILON))
        return ((p - q) * logs).mean()


LOSS = HybridKernel
