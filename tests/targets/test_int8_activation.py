"""Activations in 8 bits a value: the bound on the error, what is exact, what others can read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from geocache.errors import NumericError, ShapeError
from geocache.targets import LocalFeatures
from geocache.targets.activation import Activation

INT8 = Activation("int8")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stored(values: Tensor) -> np.ndarray:
    return INT8.compute(LocalFeatures(values, "layer l"))


def there_and_back(values: Tensor) -> Tensor:
    reader = INT8.for_array(INT8.storage(tuple(values.shape[1:])).attributes)
    return reader.decode(torch.from_numpy(stored(values)))


def assert_within_half_a_step(values: Tensor) -> None:
    decoded = there_and_back(values)
    assert decoded.dtype == torch.float32 and decoded.shape == values.shape
    x = values.double().flatten(2)
    error = (decoded.double().flatten(2) - x).abs().amax(2)
    bound = (x.amax(2) - x.amin(2)) / 510
    # Float32 rounds the step (up, by a unit in its last place) and the decoded value.
    rounding = bound * 2**-22 + x.abs().amax(2) * 2**-23 + 2.0**-149
    assert (error <= bound + rounding).all()


@pytest.mark.parametrize("scale", [1e-44, 1e-40, 1e-30, 1e-3, 1.0, 1e6, 1e30, 1e37])
@pytest.mark.parametrize("shape", [(4, 8, 8), (3, 5, 2), (1, 1, 7), (2, 6)])
def test_error_is_at_most_half_a_step(shape: tuple[int, ...], scale: float) -> None:
    assert_within_half_a_step(noise(6, *shape) * scale)
    assert_within_half_a_step(noise(6, *shape).relu() * scale)
    assert_within_half_a_step(noise(6, *shape) * scale + 3 * scale)


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.just(2), st.integers(1, 3), st.integers(1, 9)),
        elements=st.floats(-(2.0**126), 2.0**126, width=32),
    )
)
def test_error_of_any_map(values: np.ndarray) -> None:
    assert_within_half_a_step(torch.from_numpy(values))


def test_each_channel_of_each_image_has_its_own_step() -> None:
    values = (
        noise(2, 3, 8, 8) * torch.tensor([[1.0, 1e3, 1e-3], [1e4, 1.0, 1e-5]])[:, :, None, None]
    )
    relative = (there_and_back(values) - values).abs().amax((2, 3)) / values.abs().amax((2, 3))
    assert relative.max() < 2 / 510 * 1.001


@pytest.mark.parametrize("value", [0.0, -0.1, 1 / 3, 3e38, -3e38, 1e-45])
def test_constant_channels_are_exact(value: float) -> None:
    values = noise(2, 3, 4, 4)
    values[:, 1] = value
    assert torch.equal(there_and_back(values)[:, 1], values[:, 1])
    one = torch.full((2, 3, 1, 1), value)
    assert torch.equal(there_and_back(one), one)


def test_zeros_after_a_relu_stay_zeros_and_ends_are_met() -> None:
    values = noise(8, 16, 8, 8).relu()
    decoded = there_and_back(values)
    assert (values == 0).any()
    assert not decoded[values == 0].any()
    signed = noise(8, 16, 8, 8)
    lowest = signed == signed.amin((2, 3), keepdim=True)
    assert torch.equal(there_and_back(signed)[lowest], signed[lowest])


def test_levels_are_exact() -> None:
    # 0 to 255 in steps of 1/4: every value is a level.
    values = torch.arange(256.0).view(1, 1, 16, 16) / 4 - 7
    assert torch.equal(there_and_back(values), values)
    assert stored(values)[0, 0, 8:].tolist() == list(range(256))


def test_the_attributes_alone_let_another_program_decode() -> None:
    values = noise(3, 4, 5, 2)
    storage = INT8.storage((4, 5, 2))
    assert (storage.dtype, storage.shape) == ("uint8", (4, 18))
    columns, rows = storage.attributes["columns"], stored(values)
    parts = {}
    for name in ("lowest", "step"):
        column = columns[name]
        assert (column["data_type"], column["endian"]) == ("float32", "little")
        part = np.ascontiguousarray(rows[:, :, slice(*column["bytes"])])
        parts[name] = part.view("<f4").astype(np.float64)
    code = rows[:, :, slice(*columns["code"]["bytes"])].astype(np.float64)
    decoded = parts["lowest"] + code * parts["step"]
    grid = decoded.reshape(3, 4, *storage.attributes["grid"])
    assert grid == pytest.approx(there_and_back(values).numpy(), abs=1e-6)
    assert np.array_equal(parts["lowest"][:, :, 0], values.numpy().min((2, 3)))


def test_what_it_cannot_store_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"'activation' as int8.*spatial grid.*9 bytes a value"):
        INT8.storage((7,))
    wide = torch.tensor([[[-3e38, 3e38]]])
    with pytest.raises(NumericError, match=r"range must fit float32, got 6e\+38 \(layer l\)"):
        stored(wide)
    with pytest.raises(ShapeError, match=r"array's grid, got none.*cache\.decoder"):
        INT8.decode(torch.from_numpy(stored(noise(1, 2, 3, 3))))
