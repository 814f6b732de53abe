"""What the loader hands over, and what it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Batch", "Stored"]


@dataclass(frozen=True)
class Batch:
    """One batch: normalised images (B, 3, H, W), labels and rows (B,), decoded targets by name."""

    images: Tensor
    labels: Tensor
    targets: Mapping[str, Tensor]
    rows: Tensor

    def at(self, where: str | None = None) -> dict[str, Tensor]:
        """Return what a loss compares with at `where`, keyed by the bare names.

        `where` is the teacher's layer, with several teachers `NAME/LAYER`, or `NAME` for what
        belongs to no layer (logits); with one teacher None stands for that. `labels` is always
        there.
        """
        prefix = f"{where}/" if where else ""
        found = {
            name.removeprefix(prefix): value
            for name, value in self.targets.items()
            if name.startswith(prefix) and "/" not in name.removeprefix(prefix)
        }
        return {"labels": self.labels, **found}

    def as_dict(self) -> dict[str, Tensor]:
        """Return `images`, `labels`, `rows` and the targets by their names, as one dictionary."""
        own = {"images": self.images, "labels": self.labels, "rows": self.rows}
        return {**own, **self.targets}

    def as_rows(self) -> list[dict[str, Tensor]]:
        """Return such a dictionary for each row; together they collate to that of the batch."""
        columns = {name: values.unbind() for name, values in self.as_dict().items()}
        return [
            {name: values[i] for name, values in columns.items()} for i in range(len(self.rows))
        ]

    @classmethod
    def from_dict(cls, values: Mapping[str, Tensor]) -> Batch:
        """Return the batch of a dictionary as `as_dict` makes it."""
        targets = {n: v for n, v in values.items() if n not in ("images", "labels", "rows")}
        return cls(values["images"], values["labels"], targets, values["rows"])


@dataclass(frozen=True)
class Stored:
    """Rows as the cache holds them: pixels uint8 (B, 3, H, W), parameters of their view, targets.

    In memory the pixels' channels may be first or last. They may share memory with more rows; what
    is made of them for a batch never does.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor
    parameters: Tensor | None
    targets: Mapping[str, Tensor]
