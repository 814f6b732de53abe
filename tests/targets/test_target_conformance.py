"""What every registered target promises, checked on each; a new one must be entered here."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from geocache.errors import ConfigError, NumericError, ShapeError
from geocache.targets import LocalFeatures, Target, parse_target, target_from_name, target_names

EXAMPLES = {
    "activation": ("activation@l", "activation:dtype=float32@l", "activation:dtype=int8@l"),
    "attention": ("attention@l", "attention:p=1@l"),
    "distance": ("distance@l",),
    "gram": ("gram@l", "gram:grid=2x1@l"),
    "mean_map": ("mean_map@l", "mean_map:grid=3x2@l"),
    "affinity": ("affinity:radius=1@l", "affinity:radius=5@l", "affinity:k=3@l"),
    "knn": ("knn:k=1@l", "knn:k=7@l"),
    "logits": ("logits", "logits:top=2,temperature=4", "logits:top=1,temperature=0.5"),
    "mask": ("mask:radius=2@l", "mask:k=3@l"),
    "mst": ("mst@l",),
    "pooled": ("pooled@l",),
}
GRIDLESS = {"activation", "activation.float32", "pooled"}
SHAPES = ((4, 4, 4), (3, 5, 2), (1, 3, 3), (6, 9))


def every() -> list[tuple[Target, tuple[int, ...]]]:
    targets = [parse_target(text)[0].target for texts in EXAMPLES.values() for text in texts]
    return [
        (target, shape)
        for target in targets
        for shape in (((10,), (3,)) if target.kind == "logits" else SHAPES)
        if len(shape) == 3 or "grid" not in target.parameters  # interpolated on planes alone
    ]


each = pytest.mark.parametrize(
    ("target", "shape"), every(), ids=lambda v: getattr(v, "array_name", "x".join(map(str, v)) if
    isinstance(v, tuple) else None)
)  # fmt: skip


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def features(values: Tensor) -> LocalFeatures:
    return LocalFeatures(values, "layer l, rows 0 to 4")


def test_every_registered_target_is_here() -> None:
    assert set(EXAMPLES) == set(target_names())


@each
def test_name_round_trip(target: Target, shape: tuple[int, ...]) -> None:
    layer = "l.0.relu#2" if target.needs_layer else None
    name = f"{layer}/{target.array_name}" if layer else target.array_name
    found = target_from_name(name)
    assert found.target == target
    assert found.layer == layer
    assert found.name == name
    assert set(target.array_name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    parameters = ",".join(f"{k}={v}" for k, v in target.parameters.items() if v is not None)
    text = f"{target.kind}{f':{parameters}' if parameters else ''}{f'@{layer}' if layer else ''}"
    assert [parsed.name for parsed in parse_target(text)] == [name]


@each
def test_rows_are_as_storage_says(target: Target, shape: tuple[int, ...]) -> None:
    storage = target.storage(shape)
    rows = target.compute(features(noise(5, *shape)))
    assert rows.dtype == np.dtype(storage.dtype)
    assert rows.shape == (5, *storage.shape)
    assert len(storage.axes) == len(storage.shape)
    n_bytes = rows[0].nbytes
    assert storage.bytes_per_row == (math.ceil(n_bytes / 8) if storage.packed else n_bytes)


@each
def test_decoded_rows_are_finite_and_batchwise(target: Target, shape: tuple[int, ...]) -> None:
    rows = target.compute(features(noise(5, *shape)))
    stored = torch.from_numpy(rows)
    kept = stored.clone()
    reader = target.for_array(target.storage(shape).attributes)
    decoded = reader.decode(stored)
    if target.array_name == "activation.int8":  # stored as bytes, decoded as numbers
        assert decoded.shape == (5, *shape)
    elif target.kind != "gram":  # stored as a triangle, decoded whole
        assert decoded.shape == stored.shape
    assert torch.isfinite(decoded.float()).all()
    assert torch.equal(stored, kept)
    assert torch.equal(reader.decode(stored[2:3]), decoded[2:3])


@each
def test_degenerate_maps_are_finite(target: Target, shape: tuple[int, ...]) -> None:
    dead = noise(1, *shape)
    dead[:, :1] = 0
    maps = [torch.zeros(1, *shape), torch.full((1, *shape), 0.1), torch.full((1, *shape), -6e4),
            noise(1, *shape) * 1e-30, dead]  # fmt: skip
    rows = target.compute(features(torch.cat(maps)))
    assert np.isfinite(rows.astype(np.float64)).all()
    reader = target.for_array(target.storage(shape).attributes)
    assert torch.isfinite(reader.decode(torch.from_numpy(rows)).float()).all()


@each
def test_same_input_same_bytes_whatever_the_batch_and_the_threads(
    target: Target, shape: tuple[int, ...]
) -> None:
    values = noise(6, *shape)
    rows = target.compute(features(values))
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        assert target.compute(features(values.clone())).tobytes() == rows.tobytes()
    assert target.compute(features(values[3:5])).tobytes() == rows[3:5].tobytes()


@each
def test_sharing_the_geometry_changes_nothing(target: Target, shape: tuple[int, ...]) -> None:
    values = noise(3, *shape)
    alone = target.compute(features(values)).tobytes()
    for k, radius in ((1, 1), (5, 9)):
        shared = LocalFeatures(values, "layer l", radii=(2, 5))
        if len(shape) > 1:
            shared.neighbours(k)
            shared.affinity(radius)
        assert target.compute(shared).tobytes() == alone


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite_is_refused_naming_the_layer(value: float) -> None:
    values = noise(3, 2, 4, 4)
    values[1, 0, 2, 2] = value
    with pytest.raises(NumericError, match=r"layer l, rows 0 to 4, image 1"):
        features(values)


@pytest.mark.parametrize("kind", ["activation", "pooled", "logits"])
def test_overflow_of_float16_is_refused(kind: str) -> None:
    target = parse_target(EXAMPLES[kind][0])[0].target
    shape = (10,) if kind == "logits" else (4, 3, 3)
    assert target.compute(features(torch.full((2, *shape), 65504.0))).max() == 65504
    with pytest.raises(NumericError, match=r"65504, got 70000 \(layer l, rows 0 to 4\)"):
        target.compute(features(torch.full((2, *shape), 70_000.0)))


def test_activation_in_float32_does_not_overflow() -> None:
    target = parse_target("activation:dtype=float32@l")[0].target
    values = noise(2, 3, 2, 2) * 1e20
    assert np.array_equal(target.compute(features(values)), values.numpy())


@each
def test_layers_without_a_grid(target: Target, shape: tuple[int, ...]) -> None:
    if target.array_name in GRIDLESS or target.kind == "logits":
        assert target.storage((7,)).shape == target.compute(features(noise(1, 7))).shape[1:]
    else:
        with pytest.raises(ShapeError, match=f"'{target.kind}'.*spatial grid"):
            target.storage((7,))


@pytest.mark.parametrize("kind", ["gram", "mean_map"])
def test_a_grid_is_read_and_not_larger_than_the_layers(kind: str) -> None:
    target = parse_target(f"{kind}:grid=4x2@l")[0].target
    values = noise(3, 5, 4, 2)
    plain = parse_target(f"{kind}@l")[0].target
    assert target.compute(features(values)).tobytes() == plain.compute(features(values)).tobytes()
    assert target.storage((5, 8, 8)).attributes == {"grid": [4, 2]}
    for shape in ((5, 3, 8), (5, 8, 1), (5, 8)):
        with pytest.raises(ShapeError, match=f"'{kind}' .* no larger than the layer's, got 4x2"):
            target.storage(shape)
    for text in ("8", "0x4", "4x4x4", "axb", ""):
        with pytest.raises(ConfigError, match="HEIGHTxWIDTH"):
            target_from_name(f"l/{kind}.g{text}")
    with pytest.raises(ConfigError, match="takes grid"):
        target_from_name(f"l/{kind}.p2")
