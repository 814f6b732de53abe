"""Knowledge distillation: the student's softened answers follow the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from geocache.errors import ConfigError, ShapeError
from geocache.student_train.losses._base import Loss, full_precision

__all__ = ["Distillation"]


@dataclass(frozen=True)
class Distillation(Loss):
    """Hinton's distillation loss of student logits s and teacher logits t at temperature T.

    `L = T^2 mean_b sum_k p_k (log p_k - log q_k)`, `p = softmax(t_b / T)`, `q = softmax(s_b / T)`
    (Hinton, Vinyals, Dean 2015; NST eq 2 and GeoReg section 4 with their weights T^2 in the loss,
    so that the gradient's size hardly depends on T and weight 1 is what those papers mean). Zero
    where s equals t up to a constant a row. O(B K).

    Arguments: `temperature` T > 0. Raises ConfigError otherwise, and ShapeError when the class
    counts differ.
    """

    temperature: float = 4.0

    def __post_init__(self) -> None:
        if not 0.0 < self.temperature < float("inf"):
            raise ConfigError(
                f"distillation temperature must be a positive number, got {self.temperature}. "
                "The papers use 4 to 6."
            )

    def targets(self, layer: str | None = None) -> tuple[str, ...]:
        """Name the teacher's logits; they belong to no layer."""
        return ("logits",)

    def __call__(
        self, *, student: Float[Tensor, "batch classes"], target: Mapping[str, Tensor]
    ) -> Float[Tensor, ""]:
        """Return L; `target["logits"]` holds the teacher's logits (batch, classes)."""
        teacher = target["logits"]
        if teacher.shape[1] != student.shape[1]:
            raise ShapeError(
                "distillation must compare logits of the same classes, got "
                f"{student.shape[1]} from the student and {teacher.shape[1]} from the teacher. "
                "Use a loss on layers, or a teacher of this data set."
            )
        student = full_precision(student)
        log_q = F.log_softmax(student / self.temperature, dim=1)
        log_p = F.log_softmax(teacher.to(student.dtype) / self.temperature, dim=1)
        divergence = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
        return divergence * self.temperature**2


LOSS = Distillation
