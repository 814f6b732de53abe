"""Find commands, run one, and turn what went wrong into one line and an exit code.

A command is a public module of this folder with a click command named `command`. Those modules
import nothing heavy at their top, so that listing all of them takes no time.

Exit codes: 0, 1 for a user's error, 2 for wrong usage, 130 when interrupted. Any other exception is
a bug and keeps its traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from geocache import __version__
from geocache.errors import GeocacheError, nearest
from geocache.process import keep_freed_memory, yield_idle_threads
from geocache.registry import load_module, module_names

__all__ = ["InterruptedWorkError", "main", "work_kept"]

_PACKAGE = "geocache.cli"
_INTERRUPTED = 130


class InterruptedWorkError(Exception):
    """The user interrupted; the message says what was kept and how to go on."""


@contextmanager
def work_kept(message: str) -> Iterator[None]:
    """Turn KeyboardInterrupt into InterruptedWorkError with this message."""
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedWorkError(message) from None


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(module_names(_PACKAGE))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in module_names(_PACKAGE):
            return None
        command: click.Command = load_module(_PACKAGE, cmd_name, "command").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = module_names(_PACKAGE)
        if args and args[0] not in known and not args[0].startswith("-"):
            ctx.fail(
                f"no command '{args[0]}'; there are {', '.join(known)}.{nearest(args[0], known)}"
            )
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="geocache")
def _geocache() -> None:
    """Knowledge distillation from a cache: run the teacher once, train any number of students."""


def main(args: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Without `args` it is the whole program, and the process is its own to tune.
    """
    if args is None:
        yield_idle_threads()
        keep_freed_memory()
    try:
        code = _geocache.main(
            args=None if args is None else list(args), prog_name="geocache", standalone_mode=False
        )
    except click.UsageError as error:
        error.show()
        return error.exit_code
    except InterruptedWorkError as error:
        click.echo(f"geocache: interrupted: {error}", err=True)
        return _INTERRUPTED
    except (click.Abort, KeyboardInterrupt):
        click.echo("geocache: interrupted: nothing was changed.", err=True)
        return _INTERRUPTED
    except GeocacheError as error:
        line = " ".join(str(error).split())
        click.echo(f"geocache: {line if line.isprintable() else ascii(line)[1:-1]}", err=True)
        return 1
    except BrokenPipeError:
        # The reader (head, less) has enough; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code if isinstance(code, int) else 0
