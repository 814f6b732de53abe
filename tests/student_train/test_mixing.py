"""Views that mix two images, as a student meets them: pairs, labels, weights, who is held out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MemoryCache

from geocache.data.views import CELL_ROWS, ViewSet, build_policy
from geocache.errors import ConfigError
from geocache.student_train import Batch, Loader, build_loss, parse_recipe, train
from geocache.student_train.own_labels import OwnLabels, OwnLoader
from geocache.student_train.setup import prepare
from geocache.student_train.source import dataset_source

TARGETS = ("logits", "layer2/mst")
DIGESTS = np.random.default_rng(3).integers(0, 256, (61, 32), dtype=np.uint8)


def _views(name: str = "mixup", count: int = 2) -> ViewSet:
    return ViewSet(build_policy(name, {"base": "crop_flip"}), 1, count)


@pytest.fixture(params=["mixup", "cutmix"])
def mixed(request: pytest.FixtureRequest, cache: MemoryCache) -> MemoryCache:
    """The cache of 61 rows under views that mix; row 7 is no valid one, and nobody's partner."""
    views = _views(request.param)
    policy = views.mixing
    assert policy is not None
    drawn = [views.parameters(DIGESTS, view, (12, 12, 3)) for view in range(views.count)]
    lonely = [np.arange(61) + policy.offsets(of_view) == 7 for of_view in drawn]
    cache.arrays["views"] = np.stack([policy.alone(*p) for p in zip(drawn, lonely, strict=True)])
    cache.views = views
    cache.group = 32
    return cache


def _expected(cache: MemoryCache, row: int, view: int) -> tuple[torch.Tensor, int, float]:
    """A row's pixels normalised, its partner and its own weight, one at a time."""
    policy = cache.views.mixing
    assert policy is not None
    parameters = torch.from_numpy(cache.arrays["views"][view, row : row + 1])
    partner = row + int(policy.offsets(parameters.numpy())[0])
    images = torch.from_numpy(cache.arrays["images"]).permute(0, 3, 1, 2)
    pixels = policy.mix(images[row : row + 1], images[partner : partner + 1], parameters)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (cache.mean, cache.std))
    return (pixels[0] / 255 - mean) / std, partner, float(policy.weights(parameters)[0])


@pytest.mark.parametrize("options", [{"mode": "resident"}, {"mode": "stream", "buffer_rows": 32}])
def test_a_batch_holds_the_mixtures_that_were_answered(
    mixed: MemoryCache, options: dict[str, Any]
) -> None:
    loader = Loader(mixed, TARGETS, batch_size=16, **options)
    for epoch in (0, 1, 2):
        seen = []
        for batch in loader.epoch(epoch):
            assert batch.partners is not None
            for at, row in enumerate(batch.rows.tolist()):
                pixels, partner, weight = _expected(mixed, row, epoch % 2)
                assert torch.allclose(batch.images[at], pixels, atol=1e-5)
                assert int(batch.partners.rows[at]) == partner
                assert int(batch.partners.labels[at]) == int(mixed.labels[partner])
                assert float(batch.partners.own_weights[at]) == weight
                seen.append(row)
        assert sorted(seen) == [row for row in range(61) if row != 7]
    whole = next(loader.in_order(None))
    assert whole.partners is None
    one, same = loader.batch(np.array([20, 3]), 1), Batch.from_dict
    again = same(one.as_dict())
    assert again.partners is not None and one.partners is not None
    assert torch.equal(again.partners.rows, one.partners.rows)
    assert set(again.targets) == set(TARGETS)


def test_ranks_and_threads_change_nothing(mixed: MemoryCache) -> None:
    def epoch(**options: Any) -> list[Batch]:
        loader = Loader(mixed, TARGETS, 16, mode="stream", buffer_rows=32, **options)
        return list(loader.epoch(1))

    alone = epoch()
    for workers in (0, 3):
        assert all(
            torch.equal(a.images, b.images)
            for a, b in zip(alone, epoch(workers=workers), strict=True)
        )
    halves = [epoch(rank=rank, world_size=2) for rank in (0, 1)]
    for whole, *parts in zip(alone, *halves, strict=True):
        assert torch.equal(whole.images, torch.cat([part.images for part in parts]))
        partners = [part.partners.rows for part in parts if part.partners is not None]
        assert whole.partners is not None
        assert torch.equal(whole.partners.rows, torch.cat(partners))


def test_rows_without_their_partners_are_refused(mixed: MemoryCache) -> None:
    with pytest.raises(ConfigError, match="got some of the cell of row 18 without"):
        Loader(mixed, TARGETS, rows=[*range(18), *range(19, 32)])
    loader = Loader(mixed, TARGETS, rows=range(32))
    assert len(loader.rows) == 31, "an invalid row is nobody's partner and not missed"
    with pytest.raises(ConfigError, match="without that row"):
        loader.restrict(np.arange(20))


def test_whole_cells_are_held_out(mixed: MemoryCache, tables: dict[str, Any]) -> None:
    tables["data"]["views"] = {"policy": mixed.views.policy.name, "base": "crop_flip", "seed": 1,
                               "count": 2}  # fmt: skip
    tables["train"]["validation"] = 0.25
    setup = prepare(parse_recipe(tables), mixed)
    assert setup.validation is not None
    ours, held = (set((rows // CELL_ROWS).tolist())
                  for rows in (setup.loader.rows, setup.validation.rows))  # fmt: skip
    assert ours | held == {0, 1, 2, 3} and not ours & held and len(held) == 1
    for batch in setup.loader.epoch(0):
        assert batch.partners is not None
        assert np.isin(batch.partners.rows.numpy(), setup.loader.rows).all()


def test_a_student_learns_from_mixtures(
    mixed: MemoryCache, tables: dict[str, Any], tmp_path: Path
) -> None:
    tables["data"]["views"] = {"policy": mixed.views.policy.name, "base": "crop_flip", "seed": 1,
                               "count": 2}  # fmt: skip
    result = train(parse_recipe(tables), mixed, tmp_path / "run")
    assert result.n_epochs == 4 and result.validation_accuracy is not None


def _mean(values: list[tuple[float, float]]) -> float:
    return sum(w * v for w, v in values) / sum(w for w, _ in values)


def test_cross_entropy_weighs_both_labels() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    own, partner = torch.tensor([0, 1, -1, 2, -1]), torch.tensor([1, 1, 2, -1, -1])
    weights = torch.tensor([0.25, 0.5, 0.75, 0.0, 1.0], dtype=torch.float64)
    target = {"labels": own, "partner_labels": partner, "own_weights": weights}
    log = logits.log_softmax(dim=1)
    by_hand = [
        (float(w), -float(log[row, label]))
        for labels, ws in ((own, weights), (partner, 1 - weights))
        for row, (label, w) in enumerate(zip(labels.tolist(), ws, strict=True))
        if label >= 0
    ]
    loss = build_loss("cross_entropy", {})
    assert float(loss(student=logits, target=target)) == pytest.approx(_mean(by_hand), abs=1e-12)
    plain = loss(student=logits, target={"labels": own})
    ones = target | {"own_weights": torch.ones(5, dtype=torch.float64)}
    assert float(loss(student=logits, target=ones)) == pytest.approx(float(plain), abs=1e-12)
    nothing = {name: torch.full_like(own, -1) for name in ("labels", "partner_labels")}
    student = logits.clone().requires_grad_()
    loss(student=student, target=target | nothing).backward()
    assert torch.equal(student.grad, torch.zeros_like(student))
    smooth = build_loss("cross_entropy", {"label_smoothing": 0.3})
    uniform = -log.mean(dim=1)
    smoothed = [(w, 0.7 * v + 0.3 * float(uniform[row])) for (w, v), row in
                zip(by_hand, [0, 1, 3, 0, 1, 2], strict=True)]  # fmt: skip
    assert float(smooth(student=logits, target=target)) == pytest.approx(_mean(smoothed), abs=1e-12)


def test_own_labels_are_mixed_by_the_weights(mixed: MemoryCache) -> None:
    values = torch.arange(61.0)[:, None] * torch.tensor([1.0, -2.0])
    values[30] = torch.nan
    loader = OwnLoader.around(Loader(mixed, TARGETS, 16), OwnLabels("values", values, None))
    plain = {int(r): b for b in Loader(mixed, TARGETS, 16).epoch(0) for r in b.rows}
    for batch in loader.epoch(0):
        assert batch.partners is None
        for at, row in enumerate(batch.rows.tolist()):
            whole = plain[row]
            assert whole.partners is not None
            there = whole.rows.tolist().index(row)
            w, partner = whole.partners.own_weights[there], whole.partners.rows[there]
            expected = w * values[row] + (1 - w) * values[partner]
            assert torch.allclose(batch.labels[at], expected, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"data.fraction": 0.5}, "data.fraction must not stand beside views by 'mixup'"),
        ({"data.limit": 40}, "data.limit must be a multiple of 16 .* Take 48"),
        ({"loss": [{"name": "cross_entropy"}, {"name": "contrastive", "student": "block2"}]},
         "loss 'contrastive' must have one class an image"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_mixtures_is_refused(
    tables: dict[str, Any], changes: dict[str, Any], what: str
) -> None:
    tables["data"]["views"] = {"policy": "mixup"}
    for key, value in changes.items():
        table, _, name = key.partition(".")
        if name:
            tables[table][name] = value
        else:
            tables[table] = value
    with pytest.raises(ConfigError, match=what):
        parse_recipe(tables)


def test_contrastive_refuses_mixed_rows_in_a_loop_of_ones_own() -> None:
    target = {"labels": torch.tensor([0, 1]), "partner_labels": torch.tensor([1, 0])}
    with pytest.raises(ConfigError, match="contrastive must have one class a row"):
        build_loss("contrastive", {})(student=torch.zeros(2, 3, 2, 2), target=target)


def test_without_a_teacher_neighbours_are_of_all_classes(tables: dict[str, Any]) -> None:
    """A data set comes sorted by class; its rows then stand in an order of their content."""
    del tables["teacher"]
    tables["loss"] = [{"name": "cross_entropy"}]
    tables["data"] = {"dataset": "digits", "eval_split": None, "views": {"policy": "mixup"}}
    source = dataset_source(parse_recipe(tables))
    plain = dataset_source(
        parse_recipe({**tables, "data": {"dataset": "digits", "eval_split": None}})
    )
    assert source.dataset_index is not None
    assert np.array_equal(source.images, plain.images[source.dataset_index])
    assert np.array_equal(source.labels, plain.labels[source.dataset_index])
    assert not np.array_equal(source.labels, plain.labels)
    loader = Loader(source, batch_size=64, views=source.views, fresh_views=True)
    first, second = (next(loader.epoch(epoch)) for epoch in (0, 1))
    for batch in (first, second):
        assert batch.partners is not None
        assert torch.equal(batch.partners.rows // CELL_ROWS, batch.rows // CELL_ROWS)
    streamed = Loader(source, batch_size=64, views=source.views, fresh_views=True, mode="stream")
    some = np.arange(5, 40)
    assert torch.equal(loader.batch(some, 3).images, streamed.batch(some, 3).images)
    bad = dataclasses.replace(source, valid=np.arange(source.n_rows) != 21)
    batch = Loader(bad, batch_size=64, views=source.views, fresh_views=True).batch(some, 3)
    assert batch.partners is not None
    assert 21 not in batch.partners.rows[batch.rows != 21].tolist()
