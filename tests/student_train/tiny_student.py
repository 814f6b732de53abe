"""A student small enough for tests, with all that makes resuming hard: batch norm and dropout."""

from __future__ import annotations

from torch import Tensor, nn


class TinyStudent(nn.Module):
    """Two blocks: `block1` keeps the 12x12 grid, `block2` has 6x6."""

    def __init__(self, n_classes: int, dropout: float) -> None:
        super().__init__()
        self.block1 = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.block2 = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU())
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(8 * 36, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        x = self.block2(self.pool(self.block1(images)))
        logits: Tensor = self.head(self.drop(x.flatten(1)))
        return logits


def build(
    *, n_classes: int, input_shape: tuple[int, int, int], dropout: float = 0.2
) -> TinyStudent:
    """Return the student; 12x12 images only."""
    assert input_shape == (3, 12, 12)
    return TinyStudent(n_classes, dropout)
