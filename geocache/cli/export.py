"""`geocache export`: a trained student as a file for other programs."""

from __future__ import annotations

from typing import Any

import click

from geocache.cli._options import as_json

_FORMATS = ("state_dict", "torchscript", "torch_export", "onnx")


@click.command("export")
@click.argument("run", type=click.Path(file_okay=False))
@click.option("--format", "kind", type=click.Choice(_FORMATS), default="state_dict",
              show_default=True)  # fmt: skip
@click.option("--out", type=click.Path(dir_okay=False), help="[default: student.* in RUN]")
@click.option("--which", type=click.Choice(["best", "last"]), default="best", show_default=True)
@as_json
def command(run: str, kind: Any, out: str | None, which: Any, as_json: bool) -> None:
    """Write the student of a RUN folder, and a JSON file that says how to use it.

    The file is loaded again and must give the student's logits.
    """
    from geocache.cli._output import print_json, print_pairs
    from geocache.student_train.export import export_student

    done = export_student(run, out, format=kind, which=which)
    if as_json:
        print_json(done)
        return
    print_pairs(
        {
            "student": done.path,
            "described in": done.about,
            "largest difference": f"{done.error:.1e} of the largest logit",
        }
    )
