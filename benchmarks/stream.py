"""The loader: resident against indexing RAM, streaming against plain reads, waiting, memory, order.

`--cache` names a real cache with logits and trees; by default one is made of random rows.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.ratio import Ratio, arguments, compare, report
from benchmarks.shuffling import shuffle_ratios
from benchmarks.synthetic import write_cache
from geocache.data.cache import Cache, array_path
from geocache.models import build_model
from geocache.student_train import Loader
from geocache.student_train.normalise import Normalisation

BATCH = 128
BYTES_A_ROW = 200


def used_targets(cache: Cache) -> tuple[str, ...]:
    """Return what AC + KD reads of a cache."""
    names = cache.target_names()
    return tuple(n for n in names if n == "logits" or n.endswith("/mst") or "affinity" in n)


def run_through(loader: Loader) -> Callable[[], int]:
    """Return what goes through one more epoch each time it is called."""
    epochs = iter(range(10**9))
    return lambda: sum(len(batch.rows) for batch in loader.epoch(next(epochs)))


def indexing(cache: Cache, names: tuple[str, ...]) -> Callable[[], int]:
    """Return what goes through an epoch of tensors in RAM, as one would write it by hand."""
    n = cache.n_rows
    images = torch.from_numpy(cache.read("images", 0, n)).permute(0, 3, 1, 2).contiguous()
    labels = torch.from_numpy(cache.labels)
    stored = {name: torch.from_numpy(cache.read(name, 0, n)) for name in names}
    decoders = {name: cache.decoder(name) for name in names}
    by = Normalisation(cache.mean, cache.std, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)

    def epoch() -> int:
        done = 0
        order = torch.randperm(n, generator=generator)
        for start in range(0, n, BATCH):
            index = order[start : start + BATCH]
            batch: dict[str, Tensor] = {
                "images": torch.addcmul(
                    by.shift, images.index_select(0, index).to(torch.float32), by.scale
                ),
                "labels": labels.index_select(0, index),
                **{
                    name: decoders[name].decode(stored[name].index_select(0, index))
                    for name in names
                },
            }
            done += len(batch["labels"])
        return done

    return epoch


def files_of(cache: Cache, names: tuple[str, ...]) -> list[Path]:
    """Return the files that hold the rows of these arrays."""
    return [
        Path(cache.path) / cache.layouts[array_path(name)].object_key(group)
        for name in ("images", *names)
        for group in cache.layouts[array_path(name)].groups()
        if group.view == 0
    ]


def forget(files: list[Path]) -> None:
    """Drop the files' pages from the page cache."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def streaming_ratios(cache: Cache, names: tuple[str, ...], rounds: int) -> Iterator[Ratio]:
    """Yield rates of streaming against plain reads of the same files, cold and warm."""
    files = files_of(cache, names)
    n_bytes = sum(file.stat().st_size for file in files)
    epoch = run_through(Loader(cache, names, BATCH, mode="stream"))

    def plain() -> None:
        for file in files:
            file.read_bytes()

    def decoded() -> None:
        for start in range(0, cache.n_rows, 2048):
            for name in ("images", *names):
                cache.read(name, start, min(start + 2048, cache.n_rows))

    def cold(work: Callable[[], object]) -> float:
        forget(files)
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    pairs = [(cold(plain), cold(epoch)) for _ in range(rounds)]
    ratio = statistics.median(a / b for a, b in pairs)
    theirs, ours = (statistics.median(t) for t in zip(*pairs, strict=True))
    detail = f"{n_bytes / ours / 1e6:.0f} against {n_bytes / theirs / 1e6:.0f} MB/s"
    yield Ratio("stream, page cache cold / plain reads", ratio, 0.7, True, detail)
    for name, against, bar in (
        ("stream, page cache warm / plain reads", plain, 0.7),
        ("stream, warm / reading and decoding in order", decoded, None),
    ):
        ratio, theirs, ours = compare(against, epoch, rounds)
        detail = f"{n_bytes / ours / 1e6:.0f} against {n_bytes / theirs / 1e6:.0f} MB/s"
        yield Ratio(name, ratio, bar, True, detail)


def waiting(cache: Cache, names: tuple[str, ...], mode: str, steps: int) -> Ratio:
    """Return the part of SimpleCNN's training time that goes into waiting for the next batch."""
    torch.manual_seed(0)
    height, width, channels = cache.image_shape
    model = build_model(
        "simple_cnn", n_classes=len(cache.classes), input_shape=(channels, height, width)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    loader = Loader(cache, names, BATCH, mode=mode)
    batches = (batch for epoch in range(10**9) for batch in loader.epoch(epoch))
    waited_s = 0.0
    started = time.perf_counter()
    for step in range(steps):
        if step == 5:
            waited_s, started = 0.0, time.perf_counter()
        asked = time.perf_counter()
        batch = next(batches)
        waited_s += time.perf_counter() - asked
        loss = functional.cross_entropy(model(batch.images), batch.labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    elapsed_s = time.perf_counter() - started
    batches.close()
    detail = f"{waited_s / (steps - 5) * 1e3:.2f} of {elapsed_s / (steps - 5) * 1e3:.1f} ms"
    return Ratio(f"waiting for data, {mode}", waited_s / elapsed_s, 0.02, False, detail)


def resident_bytes(path: Path) -> int:
    """Return the most memory that a process needs which streams a cache once."""
    command = [sys.executable, "-m", "benchmarks.stream", "--walk", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout)


def walk(path: Path) -> None:
    """Stream a cache once and print the most memory that this process held."""
    torch.set_num_threads(1)
    loader = Loader(Cache(path), ("logits",), 512, mode="stream", buffer_rows=8 * 2048)
    assert sum(len(batch.rows) for batch in loader.epoch(0)) == len(loader.rows)
    sys.stdout.write(str(peak_bytes()))


def peak_bytes() -> int:
    """Return the most memory that this process held since it was started."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux its maximum is handed down from the process that started this one.
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii"))[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def memory(folder: Path, small: int, large: int) -> Ratio:
    """Return the bytes that each further row costs, in parts of the bytes allowed."""
    peaks = [resident_bytes(Path(write_cache(folder / str(n), n).path)) for n in (small, large)]
    a_row = (peaks[1] - peaks[0]) / (large - small)
    detail = f"{peaks[0] / 1e6:.0f} MB at {small:,}, {peaks[1] / 1e6:.0f} MB at {large:,} rows"
    name = f"memory: bytes a further row / {BYTES_A_ROW}"
    return Ratio(name, a_row / BYTES_A_ROW, 1.0, False, detail)


def main() -> None:
    """Measure all of it, or with `--walk` be the process whose memory is measured."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--cache", help="a real cache")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--large", type=int, default=1_280_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--walk", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.walk:
        walk(options.walk)
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        cache = (
            Cache(options.cache) if options.cache else write_cache(place / "c", options.rows, 32)
        )
        names = used_targets(cache)
        ratio, theirs, ours = compare(
            indexing(cache, names), run_through(Loader(cache, names, BATCH, mode="resident")),
            options.rounds,
        )  # fmt: skip
        detail = f"{cache.n_rows / ours:.0f} against {cache.n_rows / theirs:.0f} rows/s"
        ratios = [Ratio("resident / indexing RAM", ratio, 0.9, True, detail)]
        ratios += streaming_ratios(cache, names, options.rounds)
        ratios += [waiting(cache, names, mode, options.steps) for mode in ("resident", "stream")]
        ratios += shuffle_ratios(cache, BATCH)
        ratios.append(memory(place, options.rows, options.large))
    report(ratios, options.json)


if __name__ == "__main__":
    main()
