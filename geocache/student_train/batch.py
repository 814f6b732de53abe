"""What the loader hands over, and what it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["Batch", "Partners", "Stored"]


@dataclass(frozen=True)
class Partners:
    """Whom the rows of a batch are mixed with: rows and labels (B,), and by what weights (B,).

    `own_weights` in [0, 1] are the parts of the rows' own images and labels in their mixtures.
    """

    rows: Tensor
    labels: Tensor
    own_weights: Tensor

    def as_dict(self) -> dict[str, Tensor]:
        """Return `partner_rows`, `partner_labels` and `own_weights`."""
        return dict(zip(_PARTNERS, (self.rows, self.labels, self.own_weights), strict=True))


_PARTNERS = ("partner_rows", "partner_labels", "own_weights")
_OWN = ("images", "labels", "rows")


@dataclass(frozen=True)
class Batch:
    """One batch: normalised images (B, 3, H, W), labels and rows (B,), decoded targets by name.

    Views that mix two images have `partners`; the labels are those of the rows' own images.
    """

    images: Tensor
    labels: Tensor
    targets: Mapping[str, Tensor]
    rows: Tensor
    partners: Partners | None = None

    def at(self, where: str | None = None) -> dict[str, Tensor]:
        """Return what a loss compares with at `where`, keyed by the bare names.

        `where` is the teacher's layer, with several teachers `NAME/LAYER`, or `NAME` for what
        belongs to no layer (logits); with one teacher None stands for that. `labels` is always
        there, `partner_labels` and `own_weights` where two images are mixed.
        """
        prefix = f"{where}/" if where else ""
        found = {
            name.removeprefix(prefix): value
            for name, value in self.targets.items()
            if name.startswith(prefix) and "/" not in name.removeprefix(prefix)
        }
        mixed = {} if self.partners is None else self.partners.as_dict()
        return {"labels": self.labels, **mixed, **found}

    def as_dict(self) -> dict[str, Tensor]:
        """Return `images`, `labels`, `rows` and the targets by their names, as one dictionary.

        Where images are mixed, `partner_rows`, `partner_labels` and `own_weights` too.
        """
        own = dict(zip(_OWN, (self.images, self.labels, self.rows), strict=True))
        mixed = {} if self.partners is None else self.partners.as_dict()
        return {**own, **mixed, **self.targets}

    def as_rows(self) -> list[dict[str, Tensor]]:
        """Return such a dictionary for each row; together they collate to that of the batch."""
        columns = {name: values.unbind() for name, values in self.as_dict().items()}
        return [
            {name: values[i] for name, values in columns.items()} for i in range(len(self.rows))
        ]

    @classmethod
    def from_dict(cls, values: Mapping[str, Tensor]) -> Batch:
        """Return the batch of a dictionary as `as_dict` makes it."""
        targets = {n: v for n, v in values.items() if n not in (*_OWN, *_PARTNERS)}
        mixed = _PARTNERS[0] in values
        partners = Partners(*(values[name] for name in _PARTNERS)) if mixed else None
        return cls(values["images"], values["labels"], targets, values["rows"], partners)


@dataclass(frozen=True)
class Stored:
    """Rows as the cache holds them: pixels uint8 (B, 3, H, W), parameters of their view, targets.

    In memory the pixels' channels may be first or last. They may share memory with more rows; what
    is made of them for a batch never does.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor
    parameters: Tensor | None = None
    targets: Mapping[str, Tensor] = field(default_factory=dict)
    partners: Stored | None = None
    """The rows that these are mixed with, without parameters and targets of their own."""
