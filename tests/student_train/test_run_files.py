"""Checkpoints, logs, evaluation and pictures of runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from geocache.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    NumericError,
    StorageError,
)
from geocache.models import load_weights
from geocache.student_train import evaluate, load_student, parse_recipe, plot_runs, train
from geocache.student_train.checkpoint import load_checkpoint, save_checkpoint
from geocache.student_train.schedules import step_decay


class Bright(nn.Module):
    """Says class 1 for bright images; returns NaN for black ones."""

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (batch, 2)."""
        mean = images.mean(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(mean), mean / (mean != -1)], dim=1)


def test_evaluation_by_hand() -> None:
    images = np.array([255, 200, 100, 50, 10], dtype=np.uint8).reshape(5, 1, 1, 1)
    images = np.broadcast_to(images, (5, 2, 2, 3)).copy()
    labels = np.array([1, 0, 0, 1, -1])
    half = (0.5, 0.5, 0.5)
    model = Bright().train()
    result = evaluate(model, images, labels, mean=half, std=half)
    # Logits of class 1 are (x / 255 - 0.5) / 0.5 = 1, 0.57, -0.22, -0.61: right, wrong, right,
    # wrong; the last has no label. Cross-entropy: log(1 + exp(-+logit)).
    z = (np.array([255, 200, 100, 50]) / 255 - 0.5) / 0.5
    expected = np.log1p(np.exp(np.array([-1, 1, 1, -1]) * z)).mean()
    assert (result.accuracy, result.n_rows) == (0.5, 4)
    assert result.loss == pytest.approx(expected, rel=1e-6)
    assert model.training
    with pytest.raises(ConfigError, match="labelled images"):
        evaluate(model, images, np.full(5, -1), mean=half, std=half)
    with pytest.raises(NumericError, match="logits must be finite"):
        evaluate(model, np.zeros_like(images), labels, mean=half, std=half)


def test_step_decay_counts_milestones() -> None:
    rates = [step_decay(1.0, epoch=e, milestones=(2, 4), gamma=0.1) for e in range(6)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_a_checkpoint_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"model": {"w": torch.ones(3)}, "epoch": 1})
    assert load_checkpoint(path)["epoch"] == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line_and_the_old_checkpoint_stays(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"model": {}, "epoch": 1})
    (tmp_path / f"last.pt.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="the disk refused") as caught:
        save_checkpoint(path, {"model": {"w": torch.ones(300_000)}, "epoch": 2})
    assert "\n" not in str(caught.value)
    assert load_checkpoint(path)["epoch"] == 1


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    with pytest.raises(CheckpointError, match=r"run must hold last\.pt"):
        load_checkpoint(path)
    for content in (b"", b"no checkpoint at all", b"\x80\x04K\x01."):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="must be readable") as caught:
            load_checkpoint(path)
        assert "\n" not in str(caught.value)
    torch.save({"weights": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="must come from `geocache train`"):
        load_checkpoint(path)
    torch.save({"format": 99, "model": {}}, path)
    with pytest.raises(CheckpointError, match="must have format 1, got 99"):
        load_checkpoint(path)


def test_a_trained_student_serves_as_weights_elsewhere(
    cache: Any, tables: dict[str, Any], tmp_path: Path
) -> None:
    tables["train"]["epochs"] = 1
    train(parse_recipe(tables), cache, tmp_path / "a")
    student, _ = load_student(tmp_path / "a")
    from tiny_student import TinyStudent

    other = TinyStudent(3, 0.0)
    load_weights(other, tmp_path / "a" / "best.pt")
    for a, b in zip(student.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    tables["student"]["weights"] = str(tmp_path / "a" / "best.pt")
    tables["train"]["lr"] = 1e-30
    train(parse_recipe(tables), cache, tmp_path / "b")
    weights = load_student(tmp_path / "b")[0].state_dict()
    assert torch.equal(weights["head.weight"], student.state_dict()["head.weight"])


def test_pictures_of_one_and_several_runs(
    cache: Any, tables: dict[str, Any], tmp_path: Path
) -> None:
    tables["train"] |= {"epochs": 3, "eval_every": 2}
    for name, losses in (("ce", tables["loss"][:1]), ("kd", tables["loss"][:2])):
        train(parse_recipe({**tables, "loss": losses}), cache, tmp_path / name)
    before = set(sys.modules)
    path = plot_runs([tmp_path / "ce", tmp_path / "kd"], tmp_path / "both.png")
    assert path.read_bytes()[:4] == b"\x89PNG"
    # Plotting must not need or take the user's pyplot state.
    assert "matplotlib.pyplot" not in set(sys.modules) - before
    with pytest.raises(ConfigError, match="at least one run"):
        plot_runs([], path)
    with pytest.raises(DataError, match=r"run must hold metrics.jsonl"):
        plot_runs([tmp_path / "none"], path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "metrics.jsonl").write_text("")
    with pytest.raises(ConfigError, match="a whole epoch to draw"):
        plot_runs([tmp_path / "empty"], path)
