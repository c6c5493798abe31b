"""What every command shares: exit codes, errors on stderr, JSON on stdout, progress on a terminal."""

import json
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from balletal.errors import BalletalError

OK, FAILED, USAGE, SOME_VIDEOS_FAILED = 0, 1, 2, 3

stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """A line of progress for a person: on stderr, so that stdout holds results alone."""
    stderr.print(message, markup=False)


def print_json(value: Any) -> None:
    """A result for a program, on stdout. NaN is refused: it is not JSON."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def finish(code: int) -> NoReturn:
    """End a command with an exit code other than 0."""
    raise typer.Exit(code)


def run(command: typer.Typer | Callable[..., Any]) -> None:
    """Run a typer app, or one command function as `python -m workflows.<name>` does, with balletal's exit codes."""
    if not isinstance(command, typer.Typer):
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        single.command()(command)
        command = single
    try:
        command()
    except BalletalError as error:
        stderr.print(f"[bold red]error:[/] {escape(str(error))}")
        sys.exit(FAILED)
