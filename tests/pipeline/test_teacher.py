"""The frozen teacher: what it sees, what it is known by, when it is refused."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from geocache.errors import CacheError, CheckpointError, UnknownNameError
from geocache.models import build_model
from geocache.pipeline.teacher import Teacher, TeacherSpec, check_probe, load_teacher

SPEC = TeacherSpec(
    "tiny_world:teacher", None, 3, (3, 8, 8), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
)


def noise(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


def test_images_are_normalised_as_the_recipe_says() -> None:
    images = noise(4)
    found = Teacher(SPEC).normalise(images).double().numpy()
    expected = (images / 255 - np.array(SPEC.mean)) / np.array(SPEC.std)
    assert found == pytest.approx(expected.transpose(0, 3, 1, 2), abs=1e-6)


def test_it_is_frozen_and_changes_no_random_state() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    teacher = Teacher(SPEC)
    assert torch.equal(torch.get_rng_state(), state)
    assert not teacher.model.training
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert not any(t.requires_grad for t in teacher.run(noise(2)).values())


def test_shapes_and_taps() -> None:
    with Teacher(SPEC).tap(("stage1", "stage2.0")) as teacher:
        assert teacher.shapes() == {"": (3,), "stage1": (4, 8, 8), "stage2.0": (6, 4, 4)}
        teacher.tap(("stage2",))
        assert set(teacher.run(noise(1))) == {"", "stage2"}
        with pytest.raises(UnknownNameError, match="stage9"):
            teacher.tap(("stage9",))


def test_identity_is_the_content_of_the_weights(tmp_path: Path) -> None:
    model = build_model("tiny_world:teacher", n_classes=3, input_shape=(3, 8, 8))
    identities = []
    for name in ("a.pt", "b.pt"):
        torch.save({"state_dict": model.state_dict()}, tmp_path / name)
        identities.append(
            Teacher(dataclasses.replace(SPEC, weights=str(tmp_path / name))).identity()
        )
    assert identities[0] == identities[1]
    with torch.no_grad():
        model.linear.bias[0] += 1e-6  # type: ignore[union-attr, index, operator]
    torch.save(model.state_dict(), tmp_path / "b.pt")
    changed = Teacher(dataclasses.replace(SPEC, weights=str(tmp_path / "b.pt"))).identity()
    assert changed.weights != identities[0].weights
    other_seed = Teacher(dataclasses.replace(SPEC, seed=1)).identity()
    assert other_seed.weights != Teacher(SPEC).identity().weights


def test_probe_is_the_same_each_time_and_tells_small_from_large_changes() -> None:
    probe = Teacher(SPEC).probe()
    assert probe == Teacher(SPEC).probe()
    assert (len(probe), len(probe[0])) == (2, 3)
    largest = np.abs(probe).max()
    check_probe(probe, (np.array(probe) + 0.5e-3 * largest).tolist(), "k" * 64)
    with pytest.raises(CacheError, match="cache kkkkkkkkkkkk remembers"):
        check_probe(probe, (np.array(probe) + 2e-3 * largest).tolist(), "k" * 64)
    with pytest.raises(CacheError, match="remembers"):
        check_probe(probe, probe[:1], "k" * 64)


def test_a_process_loads_a_teacher_once_and_each_thread_its_own() -> None:
    digest = Teacher(SPEC).identity().weights
    first = load_teacher(SPEC, digest, "cpu", ("stage1",))
    assert load_teacher(SPEC, digest, "cpu", ("stage2",)) is first
    assert set(first.run(noise(1))) == {"", "stage2"}
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(load_teacher, SPEC, digest, "cpu", ("stage1",)).result() is not first


def test_other_weights_than_the_build_began_with_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"those that the build began with.*start the build"):
        load_teacher(SPEC, "0" * 64, "cpu", ())
