"""Every flipped, cut, missing or exchanged object of a cache is found; no reader believes one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest
from faults import Whole, array_of, bits_to_flip, build_whole, class_of, damaged, flipped, lengths

from geocache.data.cache import Cache
from geocache.data.verify import verify_objects
from geocache.errors import CacheError

Record = Callable[[str, object], None]
CLASSES = {
    "root", "layout", "receipt", "published document", "rows of images", "rows of valid",
    "rows of labels", "rows of sample_id", "rows of dataset_index", "rows of logits",
    "rows of logits.top2.t4", "rows of targets/layer1/mst", "rows of targets/layer1/affinity.r2",
    "rows of targets/layer1/affinity.r5", "rows of targets/layer2/mst", "rows of eval/images",
    "rows of targets/layer2/affinity.r2", "rows of targets/layer2/knn.k4", "rows of eval/labels",
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    with pytest.MonkeyPatch.context() as patch:
        # Small row groups and chunks: shards, and several groups of one array.
        patch.setattr("geocache.data.layout._GROUP_BYTES", 2**12)
        patch.setattr("geocache.data.layout._CHUNK_BYTES", 2**8)
        yield build_whole(tmp_path_factory.mktemp("whole"))


def n_chunks(whole: Whole, key: str) -> int:
    """Return how many chunks lie in an object."""
    if not class_of(key).startswith("rows of"):
        return 0
    layout = Cache(whole.path).layouts[key.rpartition("/c/")[0]]
    return layout.group_rows // layout.chunk_rows


Fault = tuple[str, bytes | None]


def missed_faults(whole: Whole, faults: Iterable[Fault]) -> tuple[int, list[str]]:
    """Return how many faults there are, and the objects of those that were not found.

    Faults of different arrays are tried together: a finding names its object.
    """
    by_array: dict[str, list[Fault]] = {}
    for key, data in faults:
        by_array.setdefault(array_of(key), []).append((key, data))
    missed = []
    for together in zip_longest(*by_array.values()):
        wrong = dict(filter(None, together))
        with ExitStack() as stack:
            for key, data in wrong.items():
                stack.enter_context(damaged(whole.path, key, data))
            named = {finding.key for finding in verify_objects(whole.path).damage}
        missed += sorted(wrong.keys() - named)
        assert named <= wrong.keys()
    return sum(map(len, by_array.values())), missed


def test_a_sound_cache_has_every_byte_under_a_checksum(whole: Whole) -> None:
    assert {class_of(key) for key in whole.objects} == CLASSES
    for depth in ("quick", "full"):
        result = verify_objects(whole.path, depth=depth)  # type: ignore[arg-type]
        assert result.findings == ()
        assert result.n_objects == len(whole.objects)
    assert result.n_bytes == sum(map(len, whole.objects.values()))


def check_flipped_bits(whole: Whole, few: int, small: int, told: Record) -> int:
    """Assert that every flipped bit is found; return how many there were."""
    n_flipped, missed = missed_faults(
        whole,
        (
            (key, flipped(data, bit))
            for key, data in whole.objects.items()
            for bit in bits_to_flip(key, data, few, small)
        ),
    )
    told("bits flipped", n_flipped)
    told("objects", len(whole.objects))
    told("bytes covered", sum(map(len, whole.objects.values())))
    assert missed == []
    return n_flipped


def test_flipped_bits_are_found(whole: Whole, record_testsuite_property: Record) -> None:
    assert check_flipped_bits(whole, 8, 80, record_testsuite_property) > 500


@pytest.mark.slow
def test_every_flipped_bit_is_found(whole: Whole, record_testsuite_property: Record) -> None:
    assert check_flipped_bits(whole, 12, 300, record_testsuite_property) > 1500


def test_every_cut_is_found(whole: Whole, record_testsuite_property: Record) -> None:
    shards = [key for key in whole.objects if n_chunks(whole, key) > 1]
    n_cut, missed = missed_faults(
        whole,
        (
            (key, data[:length])
            for key, data in whole.objects.items()
            for length in lengths(data, n_chunks(whole, key))
        ),
    )
    record_testsuite_property("objects cut", n_cut)
    assert missed == []
    assert len(shards) > 8


def test_every_missing_object_is_found(whole: Whole) -> None:
    n_missing, missed = missed_faults(whole, ((key, None) for key in whole.objects))
    assert n_missing == len(whole.objects)
    assert missed == []


def exchanges(whole: Whole) -> Iterator[tuple[str, str]]:
    """Yield each object with others of its class, whose bytes differ."""
    rows: dict[str, list[str]] = {}
    for key in whole.objects:
        kind = class_of(key)
        rows.setdefault("rows" if kind.startswith("rows") else kind, []).append(key)
    for keys in rows.values():
        for i, key in enumerate(keys):
            for other in (keys[i - 1], keys[(i + 7) % len(keys)]):
                if whole.files[other] != whole.files[key]:
                    yield key, other


def test_every_object_in_anothers_place_is_found(
    whole: Whole, record_testsuite_property: Record
) -> None:
    n_exchanged, missed = missed_faults(
        whole, ((key, whole.files[other]) for key, other in exchanges(whole))
    )
    record_testsuite_property("objects exchanged", n_exchanged)
    assert missed == []
    assert n_exchanged > 120


def test_another_caches_root_is_found(whole: Whole) -> None:
    other = whole.files["zarr.json"].replace(b'"resnet20"', b'"resnet32"')
    with damaged(whole.path, "zarr.json", other):
        (finding,) = verify_objects(whole.path).damage
        assert (finding.key, finding.repair) == ("zarr.json", "identity")


def test_a_quick_look_finds_what_is_missing_or_cut_and_reads_no_rows(whole: Whole) -> None:
    key = "images/c/1/0/0/0"
    data = whole.files[key]
    for bad in (None, data[:-1]):
        with damaged(whole.path, key, bad):
            (finding,) = verify_objects(whole.path, depth="quick").damage
            assert (finding.key, finding.rows) == (key, (16, 32))
    with damaged(whole.path, key, flipped(data, 99)):
        assert verify_objects(whole.path, depth="quick").damage == ()


def test_leftovers_and_unknown_files_are_told_and_are_no_damage(whole: Whole) -> None:
    extra = {
        "logits/c/0/0/9": "is counted by no receipt",
        "meta/receipts/logits/v0-g000000-r000003.json": "is outgrown by a longer one",
        "meta/receipts/logits/v0-g000000.next": "announces a write cut off",
        "holiday.jpg": "is no object of a cache",
    }
    for key in extra:
        (whole.path / key).write_bytes(b"x")
    try:
        result = verify_objects(whole.path)
        assert result.damage == ()
        assert {finding.key: finding.what for finding in result.findings} == extra
    finally:
        for key in extra:
            (whole.path / key).unlink()


NAMES = (
    "logits", "logits.top2.t4", "layer1/mst", "layer1/affinity.r2", "layer1/affinity.r5",
    "layer2/mst", "layer2/affinity.r2", "layer2/knn.k4",
)  # fmt: skip


def read_all(path: Path) -> dict[str, np.ndarray]:
    """Read whatever a reader can ask for."""
    cache = Cache(path)
    rows = {name: cache.read(name, 0, cache.n_rows) for name in NAMES}
    for name in ("images", "valid", "labels", "sample_id", "dataset_index"):
        rows[name] = getattr(cache, name) if name != "images" else cache.read(name, 0, cache.n_rows)
    assert cache.eval_images is not None
    assert cache.eval_labels is not None
    return {**rows, "eval": cache.eval_images, "eval labels": cache.eval_labels}


def test_no_reader_believes_a_damaged_object(whole: Whole) -> None:
    right = read_all(whole.path)
    exchanged = dict(exchanges(whole))
    n_refused = 0
    for number, (key, data) in enumerate(whole.objects.items()):
        faults = [flipped(data, 4 * len(data)), data[: len(data) // 2], None]
        faults.append(whole.files[exchanged.get(key, "zarr.json")])
        for bad in (faults[number % 4], faults[(number + 2) % 4]):
            if bad == data:
                continue
            with damaged(whole.path, key, bad):
                try:
                    rows = read_all(whole.path)
                except CacheError as error:
                    n_refused += 1
                    assert "object '" in str(error) or key == "zarr.json", (key, error)
                    assert "geocache verify" in str(error) or key == "zarr.json", (key, error)
                    if class_of(key).startswith("rows of"):
                        assert key in str(error)
                        assert "rows " in str(error)
                    continue
                # Published documents are for other programs; all else has to be refused.
                assert class_of(key) in ("published document",), (key, bad and bad[:40])
                for name, values in right.items():
                    assert np.array_equal(rows[name], values)
    assert n_refused > 80
