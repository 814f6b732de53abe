"""Normalised pixels: torch's own bits, wherever the channels stand in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from geocache.geometry._pixel_kernels import scale_turned
from geocache.student_train.normalise import Normalisation, channels_first

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# One pixel, odd sizes, a batch of training, and one that is shared among threads.
SHAPES = [(1, 1, 1), (3, 5, 7), (128, 32, 32), (5, 400, 401)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", ["first", "last", "part"])
def test_the_bits_are_torchs(shape: tuple[int, int, int], layout: str) -> None:
    torch.set_num_threads(2)
    generator = torch.Generator().manual_seed(1)
    n, height, width = shape
    stored = torch.randint(0, 256, (n, height, width, 3), dtype=torch.uint8, generator=generator)
    first = stored.permute(0, 3, 1, 2).contiguous()
    images = {
        "first": first,
        "last": stored.permute(0, 3, 1, 2),
        "part": torch.cat([first, first], dim=3)[..., :width],  # neither is contiguous
    }[layout]
    by = Normalisation(MEAN, STD, torch.device("cpu"))
    expected = torch.addcmul(by.shift, first.to(torch.float32), by.scale)
    for found in (by(images), by._looked_up(images)):
        assert torch.equal(found.view(torch.int32), expected.view(torch.int32))
    assert torch.equal(channels_first(images), first) and channels_first(images).is_contiguous()
    assert found.is_contiguous() and found.untyped_storage().nbytes() == 4 * first.numel()


def test_every_byte_is_the_formulas_number() -> None:
    by = Normalisation(MEAN, STD, torch.device("cpu"))
    every = torch.arange(256, dtype=torch.uint8).expand(1, 3, 1, 256)
    pixels = every.to(torch.float64) / 255
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (MEAN, STD))
    torch.testing.assert_close(by(every).double(), (pixels - mean) / std, atol=2e-6, rtol=0)


def test_where_our_arithmetic_rounds_otherwise_the_table_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def rounded_up(*arguments: Any) -> None:
        scale_turned(*arguments)
        arguments[-1][:] = np.nextafter(arguments[-1], np.float32(9))

    monkeypatch.setattr("geocache.student_train.normalise.scale_turned", rounded_up)
    by = Normalisation(MEAN, STD, torch.device("cpu"))
    images = torch.arange(192, dtype=torch.uint8).view(4, 4, 4, 3).permute(0, 3, 1, 2)
    assert torch.equal(by(images), torch.addcmul(by.shift, images.float(), by.scale))
