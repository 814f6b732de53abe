"""Knowledge distillation: the student's softened answers follow the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from geocache.errors import ConfigError, ShapeError
from geocache.student_train.losses._base import Loss, full_precision
from geocache.targets.logits import Logits

__all__ = ["Distillation"]


@dataclass(frozen=True)
class Distillation(Loss):
    """Hinton's distillation loss of student logits s and teacher logits t at temperature T.

    `L = T^2 mean_b sum_k p_k (log p_k - log q_k)`, `p = softmax(t_b / T)`, `q = softmax(s_b / T)`
    (Hinton, Vinyals, Dean 2015; NST eq 2 and GeoReg section 4 with their weights T^2 in the loss,
    so that the gradient's size hardly depends on T and weight 1 is what those papers mean). Zero
    where s equals t up to a constant a row. O(B K).

    With `top` = m the sum runs over the teacher's m largest classes and one outcome "all the rest",
    p_rest and q_rest being the masses of the other K - m classes together. Merging outcomes can
    only lose divergence (data processing inequality), so this is a lower bound of L, off by
    `T^2 p_rest KL(p | rest || q | rest)`: equal to L where the two agree within the rest, and in
    the limit p_rest -> 0. How the rest is ordered is left to the student.

    Arguments: `temperature` T > 0; `top`, None (all classes) or from 1 to K - 1, and then T has at
    most six digits. Raises ConfigError otherwise, and ShapeError when the class counts differ (with
    `top`: when the student lacks a class that the teacher chose; on the CPU alone).
    """

    temperature: float = 4.0
    top: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.temperature < float("inf"):
            raise ConfigError(
                f"distillation temperature must be a positive number, got {self.temperature}. "
                "The papers use 4 to 6."
            )
        self._name()

    def _name(self) -> str:
        if self.top is None:
            return Logits().array_name
        return Logits(top=self.top, temperature=self.temperature).array_name

    def targets(self, layer: str | None = None) -> tuple[str, ...]:
        """Name the teacher's logits; they belong to no layer."""
        return (self._name(),)

    def __call__(
        self, *, student: Float[Tensor, "batch classes"], target: Mapping[str, Tensor]
    ) -> Float[Tensor, ""]:
        """Return L; the target holds logits (batch, classes), or the columns of `logits.topM.tT`.

        Those are (batch, 2 m + 1): the largest logits, their classes, log sum_rest exp(t / T).
        """
        teacher = target[self._name()]
        student = full_precision(student)
        log_p, log_q = (
            self._all(student, teacher) if self.top is None else self._top(student, teacher)
        )
        divergence = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
        return divergence * self.temperature**2

    def _all(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        if teacher.shape[1] != student.shape[1]:
            raise ShapeError(
                "distillation must compare logits of the same classes, got "
                f"{student.shape[1]} from the student and {teacher.shape[1]} from the teacher. "
                "Use a loss on layers, or a teacher of this data set."
            )
        log_q = F.log_softmax(student / self.temperature, dim=1)
        log_p = F.log_softmax(teacher.to(student.dtype) / self.temperature, dim=1)
        return log_p, log_q

    def _top(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        n_top, n_classes = (teacher.shape[1] - 1) // 2, student.shape[1]
        logits, rest = teacher[:, :n_top], teacher[:, 2 * n_top :]
        chosen = teacher[:, n_top : 2 * n_top].long()
        # Elsewhere the comparison would make every step wait for the device.
        unknown = chosen.device.type == "cpu" and bool((chosen >= n_classes).any())
        if unknown or n_top >= n_classes:
            raise ShapeError(
                f"distillation must compare logits of the same classes, got {n_classes} from the "
                f"student and class {int(chosen.max())} among the teacher's {n_top} largest. "
                "Use a loss on layers, or a teacher of this data set."
            )
        scaled = student / self.temperature
        others = scaled.scatter(1, chosen, -torch.inf).logsumexp(dim=1, keepdim=True)
        log_q = F.log_softmax(torch.cat((scaled.gather(1, chosen), others), dim=1), dim=1)
        merged = torch.cat((logits.to(student.dtype) / self.temperature, rest.to(student.dtype)), 1)
        return F.log_softmax(merged, dim=1), log_q


LOSS = Distillation
