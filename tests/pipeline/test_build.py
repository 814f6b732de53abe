"""A build does what is missing and nothing else, and always ends with the same bytes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_world
import torch
from worlds import contents, images, opened, parse, stamps

from geocache.models import build_model
from geocache.pipeline.build import BuildReport
from geocache.pipeline.teacher import Teacher, TeacherSpec
from geocache.targets import LocalFeatures

Make = Callable[..., BuildReport]


def test_a_build_holds_what_the_teacher_says(make: Make) -> None:
    report = make()
    cache = opened(report)
    assert (report.n_rows, report.rows_built, report.failures) == (300, 300, ())
    assert report.n_bytes_written > 0
    dataset = images()
    spec = TeacherSpec(
        "tiny_world:teacher", None, 3, (3, 8, 8), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )
    pixels = np.stack([dataset.read(int(i)) for i in cache.dataset_index])
    with Teacher(spec).tap(("stage1", "stage2")) as teacher:
        tensors = teacher.run(pixels)
    for wanted in parse("logits", "mst@stage1", "affinity:radius=2,5@stage1", "pooled@stage2"):
        features = LocalFeatures(tensors[wanted.layer or ""], "here")
        # Other batches, other last bits: decode and compare with a tolerance.
        stored = torch.from_numpy(cache.read(wanted.name, 0, 300))
        expected = torch.from_numpy(wanted.target.compute(features))
        found, truth = wanted.target.decode(stored), wanted.target.decode(expected)
        if wanted.target.kind == "mst":
            assert (found == truth).float().mean() > 0.999
        else:
            torch.testing.assert_close(found, truth, rtol=1e-3, atol=1e-3)
    assert np.array_equal(cache.read("images", 0, 300), pixels)


def test_the_second_build_does_nothing(make: Make) -> None:
    first = make()
    before = stamps(first)
    calls: list[str] = []
    second = make(progress=lambda phase, done, total: calls.append(phase))
    assert second.key == first.key
    assert (second.n_units, second.rows_built, second.n_bytes_written) == (0, 0, 0)
    assert stamps(second) == before
    assert "building" not in calls


def test_one_more_target_computes_only_that(make: Make) -> None:
    first = make(targets=parse("logits"))
    before = stamps(first)
    second = make(targets=parse("logits", "mst@stage1"))
    assert second.key == first.key
    assert second.n_bytes_planned == 300 * 64
    after = stamps(second)
    assert {name: after[name] for name in before} == before
    assert all(
        "stage1" in name or name.endswith("targets/zarr.json") for name in after - before.keys()
    )
    assert contents(second) == contents(make("other", targets=parse("mst@stage1", "logits")))


def test_later_targets_need_no_data_set(make: Make, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    data = {"n": 2500, "harm": "crash", "harmful": 1, "flag": str(flag)}
    make(data=data)
    flag.touch()  # From now on reading sample 1 fails.
    assert make(data=data, targets=parse("knn:k=2@stage2")).failures == ()
    assert make("other", data=data).failures


def test_a_limit_and_then_the_rest_is_a_direct_build(make: Make) -> None:
    direct = make("direct", data={"n": 2500})
    for limit, n_units in ((70, 1), (70, 0), (2100, 2), (50, 0), (None, 1)):
        report = make(data={"n": 2500}, limit=limit)
        assert report.key == direct.key
        assert report.n_units == n_units
        cache = opened(report)
        n_built = max(report.n_asked, cache.n_built("logits"))
        assert cache.n_built("stage1/mst") == cache.n_built("images") == n_built
        assert (report.path / "logits" / "zarr.json").exists() == (limit is None)
        assert cache.valid.sum() == n_built
    assert contents(report) == contents(direct)


def test_progress_counts_rows(make: Make) -> None:
    calls: list[tuple[str, int, int]] = []
    make(data={"n": 2500}, progress=lambda *call: calls.append(call))
    assert [call for call in calls if call[0] == "building"] == [
        ("building", 0, 2500), ("building", 2048, 2500), ("building", 2500, 2500),
    ]  # fmt: skip


@pytest.mark.parametrize("group_bytes", [2**11, 2**14])
def test_the_size_of_groups_changes_no_value(
    make: Make, monkeypatch: pytest.MonkeyPatch, group_bytes: int
) -> None:
    # Batches of 24 rows lie across groups of 8, 32 and 256.
    whole = opened(make(batch_size=24))
    names = (*whole.target_names(), "images", "valid")
    expected = {name: whole.read(name, 0, 300) for name in names}
    monkeypatch.setattr("geocache.data.layout._GROUP_BYTES", group_bytes)
    monkeypatch.setattr("geocache.data.layout._CHUNK_BYTES", group_bytes // 16)
    report = make("small", batch_size=24)
    cache = opened(report)
    for name in names:
        assert np.array_equal(cache.read(name, 0, 300), expected[name])
    # One lost group is one group to do: what is around it is left alone.
    lost = cache.layouts["targets/stage1/mst"]
    last = lost.groups()[-1]
    assert last.start > 0
    before = contents(report)
    cache.objects.delete(lost.receipt_key(last))
    again = make("small", batch_size=24)
    assert again.n_units == 1
    assert again.n_bytes_planned == (last.stop - last.start) * 64
    assert contents(again) == before


def test_a_short_last_batch_is_padded(make: Make) -> None:
    # Two rows in the last batch of 64: two images alone may take another path through a kernel.
    whole = opened(make())
    tiny_world.seen.clear()
    short = opened(make("short", limit=66))
    assert tiny_world.seen[-2:] == [64, 64]
    for name in short.target_names():
        assert np.array_equal(short.read(name, 0, 66), whole.read(name, 0, 66))


def test_batches_do_not_change_the_data(make: Make) -> None:
    one, other = opened(make(batch_size=7)), opened(make("other", batch_size=300))
    logits = [torch.from_numpy(cache.read("logits", 0, 300)) for cache in (one, other)]
    torch.testing.assert_close(*logits, rtol=2e-3, atol=2e-3)
    assert np.array_equal(one.read("images", 0, 300), other.read("images", 0, 300))


def test_a_dry_run_writes_nothing(make: Make, tmp_path: Path) -> None:
    report = make(dry_run=True)
    assert not (tmp_path / "store").exists()
    assert (report.n_units, report.n_asked) == (1, 300)
    # images 192, valid 1, logits 2 x 3, mst 64, affinity 2 x 128, pooled 2 x 6 bytes a row
    assert report.n_bytes_planned == 300 * (192 + 1 + 6 + 64 + 256 + 12)
    built = make()
    assert (built.key, built.path) == (report.key, report.path)
    assert make(dry_run=True).n_bytes_planned == 0


def test_a_longer_list_serves_a_shorter_one(make: Make) -> None:
    first = make(targets=parse("knn:k=8@stage1"))
    report = make(targets=parse("knn:k=3@stage1"))
    assert report.n_units == 0
    assert opened(report).target_names() == ("stage1/knn.k8",)
    assert make(targets=parse("knn:k=9@stage1")).n_units == 1
    assert make(targets=parse("knn:k=3@stage2")).n_units == 1
    lists = opened(first).read("stage1/knn.k8", 0, 300)
    direct = opened(make("direct", targets=parse("knn:k=3@stage1")))
    assert np.array_equal(direct.read("stage1/knn.k3", 0, 300), lists[:, :, :3])


def test_a_longer_list_must_reach_as_far(make: Make) -> None:
    make(targets=parse("knn:k=8@stage1"), limit=100)
    assert make(targets=parse("knn:k=3@stage1"), limit=100).n_units == 0
    assert "stage1/knn.k3" in opened(make(targets=parse("knn:k=3@stage1"))).target_names()


def test_moved_and_reordered_data_is_the_same_cache(make: Make) -> None:
    first = make()
    before = contents(first)
    second = make(data={"shuffle": 5})
    assert second.key == first.key
    assert second.n_units == 0
    after = contents(second)
    changed = {name for name in after if after[name] != before.get(name)}
    assert all("dataset_index" in name for name in changed)
    assert after.keys() == before.keys()
    cache, dataset = opened(second), images(shuffle=5)
    row = int(cache.dataset_index[17])
    assert np.array_equal(cache.read("images", 17, 18)[0], dataset.read(row))


def test_corrected_labels_are_an_update(make: Make) -> None:
    first = make()
    before = contents(first)
    second = make(data={"relabel": 42})
    assert second.key == first.key
    assert second.n_units == 0
    changed = {n for n, data in contents(second).items() if data != before.get(n)}
    assert changed == {"labels/c/0", "meta/receipts/labels/v0-g000000-r000300.json"}
    dataset = images(relabel=42)
    cache = opened(second)
    assert np.array_equal(cache.labels, dataset.labels[cache.dataset_index])


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"change": 7}},
        {"data": {"copies": 1}},
        {"data": {"seed": 1}},
        {"mean": (0.5, 0.5, 0.5)},
        {"options": {"bias": 0.5}},
        {"n_classes": 4},
    ],
    ids=lambda change: next(iter(change.values())).__repr__()[:20],
)
def test_anything_that_changes_a_number_is_another_cache(make: Make, change: dict) -> None:
    assert make(**change, dry_run=True).key != make(dry_run=True).key


def test_copies_of_a_sample_keep_a_row_each(make: Make) -> None:
    cache = opened(make(data={"copies": 20}))
    assert cache.n_rows == 300
    assert len({row.tobytes() for row in cache.sample_id}) == 280


def test_weights_at_the_same_path_are_told_apart(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    reports = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = build_model("tiny_world:teacher", n_classes=3, input_shape=(3, 8, 8))
        torch.save(model.state_dict(), file)
        reports.append(make(weights=str(file)))
    assert reports[0].key != reports[1].key
    # The second must be the second's: the same as in a store that never saw the first.
    shutil.copy(file, tmp_path / "elsewhere.pt")
    alone = make("alone", weights=str(tmp_path / "elsewhere.pt"))
    assert alone.key == reports[1].key
    assert contents(alone) == contents(reports[1])


def test_options_of_the_teacher_may_be_lists(make: Make) -> None:
    report = make(options={"bias": [0.5, 0.0, -0.5]})
    assert report.failures == ()
    assert report.key != make(options={"bias": [0.5, 0.0, 0.5]}, dry_run=True).key
