"""Bodies of requests, streamed to disk."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from starlette.requests import ClientDisconnect

from balletal import files
from balletal.errors import StorageError
from balletal.storage import reason
from workflows.serve.problems import Problem, too_large

_MEMBERS = 100  # far more than any has


class Strict(BaseModel):
    """What a client says, in JSON or a query: members of other names are errors, and many of them are one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _few(cls, given: Any) -> Any:
        if isinstance(given, dict) and len(given) > _MEMBERS:
            raise ValueError(f"at most {_MEMBERS} members")
        return given


T = TypeVar("T", bound=Strict)

BINARY = {"schema": {"type": "string", "format": "binary"}}
"""How OpenAPI describes a body of bytes."""

SILENCE_S = 30.0
"""Seconds after which a client that sends nothing of its body is given up: it may hold a place that others wait for."""


@contextlib.contextmanager
def scratch(folder: str) -> Iterator[Path]:
    """A folder on this machine's disk, gone with all in it afterwards.

    It is inside ``folder`` where that is local: moving a file from one to the other is then a rename.

    Raises:
        StorageError: what was written there did not fit, or could not be written.
    """
    parent = Path(files.absolute(folder))
    try:
        if parent.is_absolute():
            parent.mkdir(parents=True, exist_ok=True)
        place = parent if parent.is_absolute() else None
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=place, ignore_cleanup_errors=True) as name:
            yield Path(name)
    except OSError as error:
        raise StorageError(folder, expected="a place that can be written to", found=reason(error)) from None


def check_media_type(request: Request, *types: str) -> None:
    """Take only types that a web page cannot send to another origin unasked: no form of some site gets in.

    Args:
        types: those taken; ``video/`` stands for every kind of video.

    Raises:
        Problem: 415.
    """
    found = request.headers.get("content-type", "none").split(";")[0].strip().lower()
    if not any(found == one or (one.endswith("/") and found.startswith(one)) for one in types):
        expected = " or ".join(one + "*" if one.endswith("/") else one for one in types)
        raise Problem(415, "media-type", "Unsupported media type", f"Expected {expected}, found {found[:100]}.")


async def parsed(request: Request, kind: type[T]) -> T:
    """The JSON of a body, read aside from the event loop: a framework's own parameter is read on it, whatever its size.

    Raises:
        RequestValidationError: it is none of this kind.
    """
    body = await request.body()
    try:
        return await asyncio.to_thread(kind.model_validate_json, body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError([one | {"loc": ("body", *one["loc"])} for one in found]) from None


async def receive(request: Request, path: Path, max_bytes: int) -> int:
    """Stream the body to a file, and stop at the limit whatever the headers say.

    Returns:
        Its bytes.

    Raises:
        Problem: 413, 408 when nothing comes, or 400 when the client went away.
    """
    declared = request.headers.get("content-length", "")
    size = int(declared) if declared.isdecimal() and len(declared) < 20 else 0
    if size <= max_bytes:
        size = 0
        with path.open("wb") as file:
            try:
                async for chunk in _unsilent(request.stream()):
                    size += len(chunk)
                    if size > max_bytes:
                        break
                    await asyncio.to_thread(file.write, chunk)
            except TimeoutError:
                raise Problem(408, "silence", "Silence", f"Nothing came for {SILENCE_S:g} s.") from None
            except ClientDisconnect:
                raise Problem(400, "bad-parameters", "Body cut short", "The client went away.") from None
    if size > max_bytes:
        raise too_large(max_bytes)
    return size


async def _unsilent(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    while True:
        async with asyncio.timeout(SILENCE_S):
            chunk = await anext(chunks, None)
        if chunk is None:
            return
        yield chunk
