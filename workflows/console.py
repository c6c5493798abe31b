"""What every command shares: exit codes, errors on stderr, JSON on stdout, progress on a terminal."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from balletal.errors import BalletalError
from balletal.storage import CLIENTS, reason

OK, FAILED, USAGE, SOME_VIDEOS_FAILED, INTERRUPTED = 0, 1, 2, 3, 130

stderr = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def say(message: str) -> None:
    """A line of progress for a person: on stderr, so that stdout holds results alone."""
    stderr.print(message, markup=False)


def print_json(value: Any) -> None:
    """A result for a program, on stdout. NaN is refused: it is not JSON."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def finish(code: int) -> NoReturn:
    """End a command with an exit code other than 0."""
    raise typer.Exit(code)


def run(command: typer.Typer | Callable[..., Any], settings: dict[str, Any] | None = None) -> None:
    """Run a typer app, or one command function as `python -m workflows.<name>` does, with balletal's exit codes.

    Args:
        settings: of the command function, as click's ``context_settings``.
    """
    if not isinstance(command, typer.Typer):
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        single.command(context_settings=settings)(command)
        command = single
    try:
        command()
    except BalletalError as error:
        # One that Ray brings from a task is of both types, and prints the task's traceback; its cause is ours.
        _fail(str(getattr(error, "cause", error)))
    except BrokenPipeError:  # whoever read stdout has gone, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or flushing at exit would fail again
        sys.exit(FAILED)
    except OSError as error:
        if error.strerror is None:  # not the system's: a library's own kind, whose traceback is needed
            raise
        _fail(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in CLIENTS:
            raise
        _fail(f"storage that does not work: {reason(error)}")


def _fail(message: str) -> NoReturn:
    stderr.print(f"[bold red]error:[/] {escape(message)}")
    sys.exit(FAILED)
