"""What fails is named with rows and reason, the rest is built, and the next run mends it."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from worlds import contents, images, opened, parse

import geocache
from geocache.data.datasets import open_dataset
from geocache.data.images import ImageSpec
from geocache.errors import DataError, MissingTargetError
from geocache.pipeline.build import BuildReport

Make = Callable[..., BuildReport]
N = 4500  # Three units: 2048, 2048 and 404 rows.


@pytest.fixture
def flag(tmp_path: Path) -> Path:
    """A file that stands while harm is done."""
    flag = tmp_path / "flag"
    flag.touch()
    return flag


def sample_of_row(row: int) -> int:
    """The data set's index of a row: a function of the content alone."""
    from geocache.data.identity import row_order

    dataset = images(n=N)
    return int(row_order(dataset.digests(), dataset.labels)[row])


def test_one_failing_group_is_reported_and_done_next_time(make: Make, flag: Path) -> None:
    data = {"n": N, "harm": "crash", "harmful": sample_of_row(3000), "flag": str(flag)}
    report = make(data=data)
    (failure,) = report.failures
    assert (failure.view, failure.start, failure.stop) == (0, 2048, 4096)
    assert failure.reason == "RuntimeError: the network share went away"
    assert report.rows_built == N - 2048
    cache = opened(report)
    assert cache.n_built("stage1/mst") == 2048
    assert cache.read("stage1/mst", 4096, N).shape == (404, 64)
    with pytest.raises(MissingTargetError, match="rows 2048 to 4095"):
        cache.read("stage1/mst", 2000, N)
    assert not (report.path / "targets/stage1/mst/zarr.json").exists()
    flag.unlink()
    again = make(data=data)
    assert (again.n_units, again.rows_built, again.failures) == (1, 2048, ())
    assert contents(again) == contents(make("undisturbed", data={"n": N}))


def test_an_unreadable_image_stops_its_group_unless_skipped(make: Make, flag: Path) -> None:
    harmful = sample_of_row(2100)
    data = {"n": N, "harm": "unreadable", "harmful": harmful, "flag": str(flag)}
    refused = make(data=data)
    (failure,) = refused.failures
    assert (failure.start, failure.stop) == (2048, 4096)
    assert f"tiny/train[{harmful}] must be a readable image" in failure.reason
    assert "--skip-bad" in failure.reason
    report = make(data=data, skip_bad=True)
    assert report.failures == ()
    assert list(report.bad) == [2100]
    assert f"tiny/train[{harmful}]" in report.bad[2100]
    cache = opened(report)
    assert np.flatnonzero(~cache.valid).tolist() == [2100]
    for name in (*cache.target_names(), "images"):
        assert not cache.read(name, 2100, 2101).any()
        assert cache.read(name, 2101, 2102).any()
    whole = opened(make("whole", data={"n": N}))
    assert np.array_equal(cache.read("logits", 2101, N), whole.read("logits", 2101, N))


def test_a_bad_row_stays_bad_for_later_targets(make: Make, flag: Path) -> None:
    data = {"harm": "unreadable", "harmful": 7, "flag": str(flag)}
    (row,) = make(data=data, skip_bad=True).bad
    refused = make(data=data, targets=parse("knn:k=2@stage2"))
    assert "tiny/train[7] must be a readable image" in refused.failures[0].reason
    report = make(data=data, targets=parse("knn:k=2@stage2"), skip_bad=True)
    assert not report.failures
    assert "tiny/train[7]" in report.bad[row]
    assert not opened(report).read("stage2/knn.k2", row, row + 1).any()


def test_when_the_first_image_is_bad_the_size_comes_from_another(make: Make, flag: Path) -> None:
    data = {"harm": "unreadable", "harmful": 0, "flag": str(flag)}
    assert len(make(data=data, skip_bad=True).bad) == 1


def test_a_killed_build_goes_on_where_it_was(make: Make, flag: Path, tmp_path: Path) -> None:
    data = {"n": N, "harm": "kill", "harmful": sample_of_row(2500), "flag": str(flag)}
    program = (
        "from worlds import *; from geocache.pipeline.build import BuildRequest, build\n"
        f"build(BuildRequest(dataset=images(**{data!r}), model='tiny_world:teacher', "
        f"targets=parse(*TARGETS), store={str(tmp_path / 'store')!r}, executor='serial', "
        "n_threads=1))"
    )
    killed = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": str(Path(geocache.__file__).parents[1])},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    flag.unlink()
    report = make(data=data)
    assert (report.n_units, report.rows_built) == (2, N - 2048)
    found, expected = contents(report), contents(make("undisturbed", data={"n": N}))
    assert {k: v for k, v in found.items() if "/.tmp-" not in k} == expected


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_refuses_stops_the_build_and_keeps_what_is_there(make: Make) -> None:
    # Labels and logits are small enough; the images of 2,048 rows are not.
    with largest_file(200_000):
        report = make(data={"n": N})
    (failure,) = report.failures  # No use in trying the other two units.
    assert "object 'images/c/0/0/0/0' could not be written" in failure.reason
    assert (failure.start, failure.stop) == (0, 2048)
    again = make(data={"n": N})
    assert again.failures == ()
    assert contents(again) == contents(make("undisturbed", data={"n": N}))


def test_numbers_that_are_not_finite_are_reported_with_layer_and_rows(make: Make) -> None:
    report = make(options={"poison": 1e39})
    (failure,) = report.failures
    assert "activations must be finite, got NaN or infinity (the output, rows 0 to 63" in (
        failure.reason
    )
    assert opened(report).n_built("logits") == 0


def test_overflow_of_float16_is_reported_with_layer_and_rows(make: Make) -> None:
    report = make(options={"poison": 1e5}, targets=parse("logits", "mst@stage1"))
    (failure,) = report.failures
    assert "float16 must not exceed 65504, got 1" in failure.reason
    assert "(the output, rows 0 to 63)" in failure.reason


def write_png(path: Path, height: int, width: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two classes of 8 x 8 images."""
    for seed in range(12):
        write_png(tmp_path / "data" / "ab"[seed % 2] / f"{seed}.png", 8, 8, seed)
    return tmp_path / "data"


def test_images_of_another_size_are_named(make: Make, folder: Path) -> None:
    write_png(folder / "b" / "odd.png", 9, 7, 99)
    report = make(dataset=open_dataset(f"imagefolder:{folder}"))
    (failure,) = report.failures
    assert "got 9 x 7 in" in failure.reason
    assert "odd.png" in failure.reason
    assert "--size" in failure.reason
    resized = make(dataset=open_dataset(f"imagefolder:{folder}"), image=ImageSpec((8, 8)))
    assert resized.failures == ()
    assert resized.key != report.key


def test_a_torn_file_is_named(make: Make, folder: Path) -> None:
    torn = folder / "a" / "4.png"
    torn.write_bytes(torn.read_bytes()[:60])
    report = make(dataset=open_dataset(f"imagefolder:{folder}"))
    assert "a/4.png must be a readable image" in report.failures[0].reason
    skipped = make(dataset=open_dataset(f"imagefolder:{folder}"), skip_bad=True)
    assert [Path(why.split()[0]).name for why in skipped.bad.values()] == ["4.png"]


def evaluation(**options: object) -> object:
    return open_dataset("tiny_world:images", split="test", options={"n": 40, **options})


def test_a_bad_evaluation_image_keeps_its_mark(make: Make, flag: Path) -> None:
    bad = {"harm": "unreadable", "harmful": 5, "flag": str(flag)}
    with pytest.raises(DataError, match=r"tiny/test\[5\].*\(evaluation split\).*--skip-bad"):
        make(evaluation=evaluation(**bad))
    for relabel in (-1, -1, 9):
        report = make(evaluation=evaluation(**bad, relabel=relabel), skip_bad=True)
        cache = opened(report)
        assert cache.eval_images is not None
        assert cache.eval_labels is not None
        dark = [i for i in range(40) if not cache.eval_images[i].any()]
        assert len(dark) == 1
        assert np.flatnonzero(cache.eval_labels < 0).tolist() == dark
    expected = np.delete(evaluation(relabel=9).labels, 5)  # type: ignore[attr-defined]
    kept = cache.eval_labels[cache.eval_labels >= 0]
    assert sorted(kept) == sorted(expected)


def test_evaluation_classes_must_be_the_training_ones(make: Make, folder: Path) -> None:
    for seed in range(4):
        write_png(folder.parent / "test" / "b" / f"{seed}.png", 8, 8, 50 + seed)
    split = open_dataset(f"imagefolder:{folder.parent / 'test'}")
    with pytest.raises(DataError, match=r"got 'b' as number 0, where the training split has a"):
        make(dataset=open_dataset(f"imagefolder:{folder}"), evaluation=split)


def test_evaluation_images_must_have_the_size_of_the_others(make: Make) -> None:
    with pytest.raises(DataError, match="got 9 x 9 in tiny/test"):
        make(evaluation=evaluation(size=9))
