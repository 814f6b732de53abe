"""Building a cache against the bare forward pass of the same teacher on decoded images in memory.

Both run here in one process on the same threads, batches and memory format, images from one array,
so decoding is left out of both; the build stores logits, trees and affinities at two layers. The
teacher has random weights: the price does not depend on them. Rates are rows a second.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.ratio import Ratio, arguments, compare, report
from geocache.data.dataset import ArrayDataset
from geocache.pipeline import BuildRequest, build
from geocache.pipeline.teacher import Teacher, TeacherSpec
from geocache.targets import parse_target

TARGETS = (
    "logits",
    "mst@layer2",
    "affinity:radius=2,5,10@layer2",
    "mst@layer3",
    "affinity:radius=2,5,10@layer3",
)
BATCH = 64


def main() -> None:
    """Build and pass forward in turn."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (options.rows, 32, 32, 3), dtype=np.uint8)
    names = [str(i) for i in range(10)]
    dataset = ArrayDataset(images, rng.integers(0, 10, options.rows), names, name="a", split="a")
    dataset.digests()
    targets = tuple(t for text in TARGETS for t in parse_target(text))
    ratios = []
    for model, bar in (("resnet20", 0.80), ("resnet56", 0.90)):
        spec = TeacherSpec(model, None, 10, (3, 32, 32), (0.5,) * 3, (0.25,) * 3)
        with Teacher(spec) as fast, Teacher(spec) as plain, tempfile.TemporaryDirectory() as stores:
            plain.model.to(memory_format=torch.contiguous_format)
            numbers = itertools.count()

            def build_all(
                model: str = model, stores: str = stores, number: Any = numbers
            ) -> object:
                return build(
                    BuildRequest(
                        dataset=dataset,
                        model=model,
                        targets=targets,
                        store=Path(stores) / str(next(number)),
                        executor="serial",
                        batch_size=BATCH,
                    )
                )

            def forward(teacher: Teacher = fast) -> None:
                for start in range(0, len(images), BATCH):
                    teacher.run(images[start : start + BATCH])

            def forward_plain(teacher: Teacher = plain) -> None:
                with torch.no_grad():
                    for start in range(0, len(images), 256):
                        teacher.model(teacher.normalise(images[start : start + 256]).contiguous())

            for name, theirs, bound in (
                (f"build, {model}: part of the bare forward's rate", forward, bar),
                (f"build, {model}: part of an NCHW forward's rate, batch 256", forward_plain, None),
            ):
                _, ours_s, theirs_s = compare(build_all, theirs, options.rounds)
                detail = f"{options.rows / ours_s:.0f} against {options.rows / theirs_s:.0f} rows/s"
                ratios.append(Ratio(name, theirs_s / ours_s, bound, True, detail))
    report(ratios, options.json)


if __name__ == "__main__":
    main()
