"""How results look: aligned tables, numbers with units, JSON documents. All go to stdout."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from geocache.data.finding import Finding

__all__ = [
    "command_line",
    "label_text",
    "percent",
    "print_findings",
    "print_json",
    "print_pairs",
    "print_table",
    "size_text",
]


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print aligned columns; those that hold numbers alone stand to the right."""
    cells = [[_printable(value) for value in row] for row in rows]
    widths = [
        max(len(name), *(len(row[i]) for row in cells)) if cells else len(name)
        for i, name in enumerate(header)
    ]
    right = [
        bool(cells) and all(row[i][:1].isdigit() or row[i] in ("", "-") for row in cells)
        for i in range(len(header))
    ]
    for row in [list(header), *cells]:
        parts = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        click.echo("  ".join(parts).rstrip())


def print_pairs(pairs: dict[str, object]) -> None:
    """Print `name  value` lines with the values aligned."""
    width = max(map(len, pairs))
    for name, value in pairs.items():
        click.echo(f"{name.ljust(width)}  {_printable(value)}")


def _printable(value: object) -> str:
    """Return text that cannot steer a terminal, whatever a cache from elsewhere says of itself."""
    text = str(value)
    return text if text.isprintable() else ascii(text)[1:-1]


def label_text(about: Mapping[str, Any]) -> str:
    """Return a cache's name, pin and note as one text, empty where it has none of them."""
    pin = "(pinned)" if about["pinned"] else ""
    return " ".join(part for part in (about["name"], pin, about["note"]) if part)


def print_findings(found: Sequence[Finding]) -> None:
    """Print a line for each finding: its state, what, how it is, what to do."""
    width = max((len(finding.what) for finding in found), default=0)
    for finding in found:
        text = " ".join(part for part in (f"{finding.text}.", finding.remedy) if part)
        what = _printable(finding.what).ljust(width)
        click.echo(f"{finding.state:<8} {what}  {_printable(text)}")


def print_json(document: Any) -> None:
    """Print one JSON document; dataclasses and paths are turned into plain values."""
    click.echo(json.dumps(_plain(document), indent=2))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def size_text(n_bytes: float) -> str:
    """Return `812 B`, `3.2 KB`, `1.4 GB`."""
    for unit in ("B", "KB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


def percent(accuracy: float | None) -> str:
    """Return `81.03 %`, or `-` where nothing was measured."""
    return "-" if accuracy is None else f"{100 * accuracy:.2f} %"


def command_line(*words: object, **flags: object) -> str:
    """Return `geocache WORDS --flag VALUE ...`, quoted for a shell; None and False are left out."""
    parts = ["geocache", *map(str, words)]
    for name, value in flags.items():
        for one in value if isinstance(value, tuple) else (value,):
            if one is True:
                parts.append(f"--{name}")
            elif one is not None and one is not False:
                parts += [f"--{name}", str(one)]
    return shlex.join(parts)
