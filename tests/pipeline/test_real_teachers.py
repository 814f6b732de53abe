"""The public checkpoints on the real images: figures that only a right loader and model give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from geocache.data.dataset import ImageDataset
from geocache.data.datasets import open_dataset
from geocache.data.images import ImageSpec, read_rows
from geocache.geometry import minimum_spanning_tree, neighbour_counts
from geocache.pipeline.teacher import Teacher, TeacherSpec

pytestmark = pytest.mark.real


def teacher(real_data: Path, model: str, file: str) -> Teacher:
    return Teacher(
        TeacherSpec(
            model=model,
            weights=str(real_data / "weights" / file),
            n_classes=10,
            input_shape=(3, 32, 32),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        )
    )


def pixels(dataset: ImageDataset, indices: np.ndarray | range) -> np.ndarray:
    images, bad = read_rows(dataset, np.asarray(indices), ImageSpec(), 2)
    assert not bad
    return images


@pytest.mark.slow
def test_resnet20_reaches_its_accuracy(real_data: Path) -> None:
    # DESIGN 8: 81.03 % of the 10,000 test images.
    dataset = open_dataset("imagefolder", root=real_data, split="test")
    assert len(dataset) == 10_000
    n_right = 0
    with teacher(real_data, "resnet20", "resnet20-12fca82f.th") as resnet20:
        for start in range(0, len(dataset), 250):
            rows = range(start, start + 250)
            answers = resnet20.run(pixels(dataset, rows))[""].argmax(1)
            n_right += int((answers.numpy() == dataset.labels[start : start + 250]).sum())
    assert n_right == pytest.approx(8103, abs=2)


def test_neighbourhood_sizes_of_resnet56(real_data: Path) -> None:
    # DESIGN 8 gives 18.8 at layer2 and 16.5 at layer3 for r = 5. That is what the first images in
    # the folders' order give, all of them airplanes; images drawn from all classes give more.
    dataset = open_dataset("imagefolder", root=real_data, split="train")
    anywhere = np.random.default_rng(0).choice(len(dataset), 200, replace=False)
    with teacher(real_data, "resnet56", "resnet56-4bfd9763.th").tap(("layer2", "layer3")) as net:
        first, drawn = net.run(pixels(dataset, range(200))), net.run(pixels(dataset, anywhere))
    assert set(dataset.labels[:200]) == {dataset.classes.index("airplane")}
    assert mean_size(first["layer2"]) == pytest.approx(18.8, abs=0.1)
    assert mean_size(first["layer3"]) == pytest.approx(16.5, abs=0.1)
    # 3,000 images gave 19.46 and 17.64; means of images scatter by 2.0 and 2.2, of 200 by 0.15.
    assert mean_size(drawn["layer2"]) == pytest.approx(19.46, abs=0.5)
    assert mean_size(drawn["layer3"]) == pytest.approx(17.64, abs=0.5)


def mean_size(features: torch.Tensor) -> float:
    return float(neighbour_counts(minimum_spanning_tree(features), 5).float().mean())
