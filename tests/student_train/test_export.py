"""Exported students answer as the student does, say how to be used, or are not left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geocache.errors import ConfigError, GeocacheError
from geocache.models import load_weights
from geocache.student_train import load_student, parse_recipe, train
from geocache.student_train.export import export_student

FORMATS = ("state_dict", "torchscript", "torch_export", "onnx")


@pytest.fixture(scope="module")
def run(_cache: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("run")
    tables: dict[str, Any] = {
        "data": {"dataset": "fakedata"},
        "teacher": {"model": "resnet20"},
        "student": {"model": "tiny_student:build"},
        "loss": [{"name": "cross_entropy"}],
        "train": {"epochs": 1, "device": "cpu", "lr": 0.05, "validation": 0.2},
    }
    train(parse_recipe(tables), _cache, out)
    return out


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")
@pytest.mark.parametrize("kind", FORMATS)
def test_the_file_gives_the_students_logits(run: Path, tmp_path: Path, kind: Any) -> None:
    """Loaded here by other means than the exporter's own check, for a batch of another size."""
    if kind == "onnx":
        for name in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(name)
    done = export_student(run, tmp_path / "student", format=kind)
    student, state = load_student(run)
    images = torch.randn(7, 3, 12, 12, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(_loaded(kind, done.path)(images), student(images).detach(),
                               rtol=1e-4, atol=1e-5)  # fmt: skip
    assert done.error < 1e-4
    about = json.loads(done.about.read_text())
    assert about["format"] == kind and about["classes"] == ["a", "b", "c"]
    assert about["input_shape"] == [3, 12, 12]
    assert (about["mean"], about["std"]) == (state["mean"], state["std"])


def _loaded(kind: str, path: Path) -> Any:
    if kind == "state_dict":
        from tiny_student import TinyStudent

        model = TinyStudent(3, 0.2).eval()
        load_weights(model, path)
        return lambda images: model(images).detach()
    if kind == "torchscript":
        return torch.jit.load(str(path))
    if kind == "torch_export":
        module = torch.export.load(path).module()
        return lambda images: module(images).detach()
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


class Moody(nn.Module):
    """Its branch depends on the images: a trace keeps one side only."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.head(images.mean(dim=(2, 3)))
        return logits + 1 if len(images) % 2 else logits


def test_a_file_that_answers_otherwise_is_refused_and_removed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geocache.student_train import export

    state = load_student(run)[1]
    monkeypatch.setattr(export, "load_student", lambda *_: (Moody().eval(), state))
    for kind in ("torchscript", "torch_export"):
        with pytest.raises(ConfigError, match="student must"):
            export_student(run, tmp_path / "student", format=kind)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"format must be one of state_dict, .* got 'pickle'"):
        export_student(run, format="pickle")  # type: ignore[arg-type]
    with pytest.raises(GeocacheError, match=r"run must hold best\.pt"):
        export_student(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"onnxruntime installed.*geocache\[onnx\]"):
        export_student(run, format="onnx")
