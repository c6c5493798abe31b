"""The commands in `cluster/`, and whether our command line, Ray's and Serve's take them. Nothing is run."""

import importlib
import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import ray.scripts.scripts
import ray.serve.scripts
import typer

from tests.cluster.checks import documents
from workflows.cli import build

Words = list[str]

# Keys of manifests below which commands stand: KubeRay's, containers', the cluster launcher's.
_KEYS = ("entrypoint", "command", "args")


def commands(path: Path) -> list[Words]:
    """The simple commands of a manifest, a Dockerfile or a page of Markdown."""
    return [words for text in _texts(path) for words in simple_commands(text)]


def _texts(path: Path) -> Iterator[str]:
    if path.suffix == ".md":
        for language, block in re.findall(r"(?ms)^```(\w+)\n(.*?)^```", path.read_text()):
            lines = block.replace("\\\n", " ").splitlines()
            if language == "console":
                lines = [line[2:] for line in lines if line.startswith("$ ")]
            if language in ("console", "sh"):
                yield from lines
    elif path.name.startswith("Dockerfile"):
        text = re.sub(r"(?m)^\s*#.*\n", "", path.read_text()).replace("\\\n", " ")
        for command in re.findall(r"(?m)^(?:RUN|(?:HEALTHCHECK.*)?CMD|ENTRYPOINT)\s+(.*)$", text):
            yield shlex.join(json.loads(command)) if command.startswith("[") else command
    else:
        for document in documents(path):
            yield from _in_manifest(document)


def _in_manifest(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for one in value:
            yield from _in_manifest(one)
    elif isinstance(value, dict):
        for key, below in value.items():
            if key.endswith("_commands"):
                yield from below
            elif key in _KEYS and isinstance(below, list):
                yield shlex.join(below)
            elif key in _KEYS and isinstance(below, str):
                yield below
            else:
                yield from _in_manifest(below)


def simple_commands(text: str) -> Iterator[Words]:
    """The commands of a line of shell, as words: also those in `sh -c '...'` and behind `--`, which another runs."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";&|()")
    lexer.whitespace_split = True
    words: Words = []
    for word in [*lexer, ";"]:
        if re.fullmatch(r"[;&|()]+", word):
            yield from _own_and_inner(words)
            words = []
        else:
            words.append(word)


def _own_and_inner(words: Words) -> Iterator[Words]:
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):  # of the environment
        words = words[1:]
    if not words:
        return
    yield words
    if words[:2] == ["sh", "-c"]:
        yield from simple_commands(words[2])
    elif "--" in words:
        yield from _own_and_inner(words[words.index("--") + 1 :])


@cache
def _programs() -> dict[str, Any]:
    return {
        "balletal": typer.main.get_command(build()),
        "ray": ray.scripts.scripts.cli,
        "serve": ray.serve.scripts.cli,
    }


def check_command(words: Words) -> bool:
    """That a command exists and takes its options; whether it is one that can be checked.

    Raises:
        click.UsageError: (or typer's own copy of it) no such command, option or value; an argument is missing.
    """
    name, rest = words[0].rpartition("/")[2], words[1:]
    if name in ("python", "python3") and rest[:1] == ["-m"] and rest[1].startswith("workflows."):
        module = importlib.import_module(rest[1])
        program = typer.Typer(add_completion=False)
        if not hasattr(module, "app"):
            program.command()(module.main)
        _take(typer.main.get_command(getattr(module, "app", program)), rest[1], rest[2:])
        return True
    if name in _programs():
        taken = _take(_programs()[name], name, rest)
        if name == "balletal" and rest[:1] == ["submit"]:
            check_command(["balletal", taken["workflow"], *taken["args"]])
        return True
    return False


def _take(command: Any, name: str, words: Words) -> dict[str, Any]:
    """Parse as a run would, from group to subcommand; what the subcommand was given."""
    parent = None
    while True:
        context = command.make_context(name, list(words), parent=parent)
        if not hasattr(command, "resolve_command"):
            return dict(context.params)
        words = [*context._protected_args, *context.args]
        name, command, words = command.resolve_command(context, words)
        parent = context
