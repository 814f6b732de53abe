"""Take a trained student out of its run: a file for other programs, and a JSON that explains it.

Every exported module is loaded again and asked for the logits of sample images, in batches of two
sizes; a file whose logits are not the student's is not left behind.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from geocache.errors import ConfigError, StorageError
from geocache.student_train.evaluate import load_student
from geocache.student_train.recipe import Recipe

__all__ = ["FORMATS", "Export", "Format", "export_student"]

Format = Literal["state_dict", "torchscript", "torch_export", "onnx"]
FORMATS: dict[Format, str] = {
    "state_dict": ".pt",
    "torchscript": ".torchscript.pt",
    "torch_export": ".pt2",
    "onnx": ".onnx",
}
_TOLERANCE = 1e-4
_SAMPLES = 5

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Export:
    """What was written: the file, the JSON beside it, how far its logits are from the student's.

    `error` is the largest difference over the sample images, relative to the largest logit.
    """

    path: Path
    about: Path
    format: Format
    error: float


def export_student(
    out: str | Path,
    path: str | Path | None = None,
    *,
    format: Format = "state_dict",  # noqa: A002
    which: Literal["best", "last"] = "best",
) -> Export:
    """Write the student of the run in `out` to `path`, by default `student` in the run's folder.

    "state_dict" holds the weights alone; the others the network, too, for batches of any size. The
    JSON (`path` and `.json`) says what goes in (`input_shape`, pixels from 0 to 1 with `mean` taken
    off and divided by `std`) and what comes out (`classes`). Raises CheckpointError without such a
    run, ConfigError for an unknown format, one that is not installed or a student that it cannot
    express, StorageError when the disk refuses.
    """
    if format not in FORMATS:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}, got '{format}'.")
    _check_installed(format)
    student, state = load_student(out, which)
    path = Path(out) / f"student{FORMATS[format]}" if path is None else Path(path)
    shape = tuple(state["input_shape"])
    samples = torch.randn(_SAMPLES, *shape, generator=torch.Generator().manual_seed(0))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about tracing itself; its result is checked below
            run = _WRITERS[format](student, samples[:2], path)
            error = _difference(run, student, samples)
    except OSError as problem:
        raise StorageError(
            f"export must be written to '{path}', but the disk refused: {problem.strerror}."
        ) from None
    except Exception as problem:  # each exporter raises kinds of its own
        path.unlink(missing_ok=True)
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise ConfigError(
            f"student must be one that {format} can express, got: {reason}. "
            "Export another format; state_dict always works."
        ) from problem
    if not error <= _TOLERANCE:
        path.unlink(missing_ok=True)
        raise ConfigError(
            f"exported student must give the student's logits, got a difference of {error:.2g} of "
            f"the largest ({format}). Its forward depends on more than the images; export another "
            "format."
        )
    about = _describe(state, path, format, error)
    return Export(path, about, format, error)


def _check_installed(format: Format) -> None:  # noqa: A002
    if format != "onnx":
        return
    missing = [n for n in ("onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(n)]
    if missing:
        raise ConfigError(
            f"format 'onnx' must have {', '.join(missing)} installed, which is not. "
            "Run `pip install 'geocache[onnx]'`."
        )


@torch.no_grad()
def _difference(run: Run, student: nn.Module, samples: Tensor) -> float:
    """Return the largest difference of logits, relative to the largest, over batches of 1 and 5."""
    ours = student(samples)
    theirs = [run(samples), torch.cat([run(samples[:1]), run(samples[1:])])]
    largest = max(float((logits - ours).abs().max()) for logits in theirs)
    return largest / max(float(ours.abs().max()), 1e-12)


def _state_dict(student: nn.Module, images: Tensor, path: Path) -> Run:
    torch.save(student.state_dict(), path)
    student.load_state_dict(torch.load(path, weights_only=True))
    return student


def _torchscript(student: nn.Module, images: Tensor, path: Path) -> Run:
    torch.jit.trace(student, images).save(str(path))  # type: ignore[no-untyped-call]
    run: Run = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
    return run


def _torch_export(student: nn.Module, images: Tensor, path: Path) -> Run:
    batch = torch.export.Dim("batch")
    program = torch.export.export(student, (images,), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    return torch.export.load(path).module()


def _onnx(student: nn.Module, images: Tensor, path: Path) -> Run:
    torch.onnx.export(
        student, (images,), str(path), input_names=["images"], output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},), dynamo=True, external_data=False,
        verbose=False,
    )  # fmt: skip
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


_WRITERS: dict[Format, Callable[[nn.Module, Tensor, Path], Run]] = {
    "state_dict": _state_dict,
    "torchscript": _torchscript,
    "torch_export": _torch_export,
    "onnx": _onnx,
}


def _describe(state: dict[str, Any], path: Path, format: Format, error: float) -> Path:  # noqa: A002
    recipe = Recipe.model_validate_json(state["recipe"])
    about = path.with_name(path.name + ".json")
    document = {
        "format": format,
        "model": recipe.student.model,
        "options": recipe.student.options,
        "input_shape": state["input_shape"],
        "input": "RGB pixels from 0 to 1, (batch, channels, height, width), minus mean, over std",
        "mean": state["mean"],
        "std": state["std"],
        "output": "logits (batch, classes)",
        "classes": state["classes"],
        "epoch": state["epoch"],
        "largest_relative_error": error,
        "torch": torch.__version__,
    }
    about.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return about
