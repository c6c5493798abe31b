"""The page: static files of this package, and the timeline that it shares with the report."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Response

import balletal.report
from workflows.serve.problems import Problem

_STATIC = Path(__file__).parent / "static"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class _File:
    content: bytes
    media_type: str
    etag: str


def _read(path: Path) -> _File:
    content = path.read_bytes()
    return _File(content, _TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


# Read once, and found by name alone: no path of a request reaches the file system.
_FILES = {
    path.name: _read(path)
    for path in (*sorted(_STATIC.iterdir()), Path(balletal.report.__file__).parent / "timeline.js")
    if path.suffix in _TYPES
}


@router.get("/")
async def index(if_none_match: Annotated[str, Header()] = "") -> Response:
    """The page."""
    return _answer("index.html", if_none_match)


@router.get("/static/{name}")
async def static(name: str, if_none_match: Annotated[str, Header()] = "") -> Response:
    """A file of the page."""
    if name not in _FILES:
        raise Problem(404, "not-found", "Not found", "The page has no such file.")
    return _answer(name, if_none_match)


def _answer(name: str, known: str) -> Response:
    file = _FILES[name]
    # A browser asks each time, and is told in a few bytes that nothing changed: a new version shows at once.
    headers = {"ETag": file.etag, "Cache-Control": "no-cache"}
    if file.etag in {tag.strip().removeprefix("W/") for tag in known.split(",")}:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
