"""The loader: what a batch holds, which rows come, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from geocache.errors import ConfigError, MissingTargetError
from geocache.student_train import Loader, Source

TARGETS = ("logits", "layer2/mst", "layer2/affinity.r2")


def test_the_stand_in_keeps_the_protocol(cache: Any) -> None:
    assert isinstance(cache, Source)


def test_a_batch_holds_the_rows_it_names(cache: Any) -> None:
    loader = Loader(cache, targets=TARGETS, batch_size=16, seed=3)
    assert len(loader) == 4
    seen = []
    for batch in loader.epoch(0):
        rows = batch.rows.numpy()
        pixels = cache.arrays["images"][rows].astype(np.float64) / 255
        expected = ((pixels - cache.mean) / cache.std).transpose(0, 3, 1, 2)
        assert batch.images.dtype == torch.float32 and batch.images.is_contiguous()
        np.testing.assert_allclose(batch.images.numpy(), expected, atol=2e-6)
        assert batch.labels.tolist() == cache.labels[rows].tolist()
        assert set(batch.targets) == set(TARGETS)
        stored = cache.arrays["layer2/affinity.r2"][rows]
        np.testing.assert_allclose(batch.targets["layer2/affinity.r2"], stored / 65535, atol=1e-7)
        assert batch.targets["layer2/mst"].tolist() == cache.arrays["layer2/mst"][rows].tolist()
        seen += rows.tolist()
    assert sorted(seen) == [row for row in range(61) if row != 7]  # row 7 is invalid


def test_a_batch_serves_each_layers_loss_by_bare_names(cache: Any) -> None:
    batch = next(Loader(cache, targets=TARGETS).epoch(0))
    assert set(batch.at("layer2")) == {"labels", "mst", "affinity.r2"}
    assert set(batch.at()) == {"labels", "logits"}
    assert set(batch.at("layer")) == {"labels"}


def test_order_depends_on_seed_and_epoch_alone(cache: Any) -> None:
    def rows(loader: Loader, epoch: int) -> list[int]:
        return [row for batch in loader.epoch(epoch) for row in batch.rows.tolist()]

    first = Loader(cache, targets=TARGETS, batch_size=16, seed=3)
    assert rows(first, 1) == rows(Loader(cache, batch_size=7, seed=3), 1)
    assert rows(first, 1) == rows(first, 1) != rows(first, 2)
    assert rows(first, 1) != rows(Loader(cache, seed=4), 1)


def test_chosen_rows_and_their_restriction_share_memory(cache: Any) -> None:
    loader = Loader(cache, targets=TARGETS, rows=[3, 7, 9, 20])
    assert loader.rows.tolist() == [3, 9, 20]
    part = loader.restrict(np.array([9, 40]), targets=False)
    (batch,) = part.in_order()
    assert batch.rows.tolist() == [9] and not batch.targets
    assert part._held is loader._held
    assert loader.targets == TARGETS and len(next(loader.epoch(0)).rows) == 3


def test_targets_that_are_not_there_are_refused(cache: Any) -> None:
    with pytest.raises(MissingTargetError, match=r"must hold the target 'layer2/affinity.r5', got "
                       r"logits.*Did you mean 'layer2/affinity.r2'\?"):  # fmt: skip
        Loader(cache, targets=["layer2/affinity.r5"])


def test_half_built_targets_are_refused_unless_the_rows_are_there(cache: Any) -> None:
    cache.built["layer2/mst"] = 32
    with pytest.raises(
        MissingTargetError,
        match=r"'layer2/mst' .* all rows that are used, 61, got 32 .*data.limit = 32",
    ):
        Loader(cache, targets=TARGETS)
    assert len(Loader(cache, targets=TARGETS, rows=range(32)).rows) == 31
    cache.valid[32:] = False  # as in a cache that was interrupted: rows not built are not valid
    with pytest.raises(MissingTargetError, match="61, got 32"):
        Loader(cache, targets=TARGETS)


def test_a_longer_neighbour_list_serves_a_shorter_one(cache: Any) -> None:
    loader = Loader(cache, targets=["layer2/knn.k3"])
    batch = next(loader.epoch(0))
    assert batch.targets["layer2/knn.k3"].shape == (60, 36, 4)
    rows = batch.rows.numpy()
    assert batch.at("layer2")["knn.k3"].tolist() == cache.arrays["layer2/knn.k4"][rows].tolist()
    with pytest.raises(MissingTargetError, match=r"layer2/knn\.k5"):
        Loader(cache, targets=["layer2/knn.k5"])


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64", "int16", "float16", "float64"])
def test_any_stored_type_is_gathered_as_it_is(cache: Any, dtype: str) -> None:
    class AsIs:
        def decode(self, stored: torch.Tensor, /) -> torch.Tensor:
            return stored

    cache.arrays["x"] = np.linspace(0, 50_000, 61).astype(dtype)
    cache.decoders["x"] = AsIs()
    batch = next(Loader(cache, targets=["x"]).epoch(0))
    assert batch.targets["x"].numpy().dtype == dtype
    np.testing.assert_array_equal(batch.targets["x"].numpy(), cache.arrays["x"][batch.rows.numpy()])


@pytest.mark.parametrize(("options", "message"), [
    ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ({"rows": []}, "rows must name valid rows"),
    ({"rows": [7]}, "rows must name valid rows"),
])  # fmt: skip
def test_bad_arguments_are_refused(cache: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Loader(cache, **options)
