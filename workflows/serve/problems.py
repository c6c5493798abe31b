"""Errors as `application/problem+json` (RFC 9457): stable `urn:balletal:*` types, a request id, nothing internal."""

import errno
import logging
import os
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as PlainHTTPException
from starlette.responses import Response
from starlette.websockets import WebSocket

from balletal.errors import StorageError, VideoError

log = logging.getLogger(__name__)

# Files that are no video of a kind that we take are a wrong media type; the other kinds are videos that cannot be used.
_NO_VIDEO = ("not-a-video", "no-video-stream", "unsupported-codec")

# What the framework itself answers.
_URNS = {400: "bad-parameters", 404: "not-found", 405: "method-not-allowed"}

# Of answers of a status, whoever gives them.
_HEADERS = {401: {"WWW-Authenticate": 'Bearer realm="balletal"'}, 429: {"Retry-After": "5"}, 503: {"Retry-After": "5"}}


class Problem(HTTPException):
    """An answer other than the result. ``more`` are further members of the problem object."""

    def __init__(
        self, status: int, urn: str, title: str, detail: str, headers: dict[str, str] | None = None, **more: Any
    ) -> None:
        # An HTTPException, because the framework takes others for a body that it cannot read.
        super().__init__(status, detail, headers)
        self.status, self.urn, self.title, self.more = status, urn, title, more


def video_problem(error: VideoError) -> Problem:
    """The answer to a video that cannot be used. The error's place is a file of ours, so it stays out."""
    status = 415 if error.kind in _NO_VIDEO else 422
    detail = f"expected {error.expected}, found {error.found}".replace(error.where, "the upload")
    return Problem(status, "bad-video", "The video cannot be used", detail, kind=error.kind)


def storage_problem(error: StorageError) -> Problem:
    """The answer when the data folder cannot be used. Its place is ours, so it stays out."""
    if error.found in _FULL:
        return Problem(507, "quota", "No space", "The service's disk is full.")
    return Problem(503, "not-ready", "Storage away", "The service's storage does not answer. Try again later.")


_TOLD = 20  # errors of one request
_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))


def install_problems(app: FastAPI) -> None:
    """Make every error that a route raises a problem; :mod:`workflows.serve.observe` sees to the rest.

    An exception that nobody foresaw is left to it.
    """

    @app.exception_handler(Problem)
    async def problem(request: Request | WebSocket, error: Problem) -> Response | None:
        if isinstance(request, WebSocket):  # before it was accepted; the handshake gets a 403
            await request.close(4000 + error.status, error.title)
            return None
        headers = _HEADERS.get(error.status, {}) | dict(error.headers or {})
        return _answer(request, error.status, error.urn, error.title, error.detail, headers, **error.more)

    @app.exception_handler(StorageError)
    async def storage(request: Request, error: StorageError) -> Response:
        log.error("request %s: %s", request.state.request_id, error)
        told = storage_problem(error)
        return _answer(request, told.status, told.urn, told.title, told.detail, _HEADERS.get(told.status))

    @app.exception_handler(PlainHTTPException)
    async def http(request: Request, error: PlainHTTPException) -> Response:
        urn = _URNS.get(error.status_code, "http")
        return _answer(
            request, error.status_code, urn, error.detail, f"{request.method} {request.url.path}", error.headers
        )

    @app.exception_handler(RequestValidationError)
    async def parameters(request: Request, error: RequestValidationError) -> Response:
        # Where and why, without the input: an error must not mirror what was sent.
        found = [{"parameter": str(one["loc"][-1]), "message": one["msg"]} for one in error.errors()[:_TOLD]]
        detail = "; ".join(f"{one['parameter']}: {one['message']}" for one in found)
        return _answer(request, 422, "bad-parameters", "Parameters out of range", detail, errors=found)


def too_large(max_bytes: int) -> Problem:
    """The answer to a body that is larger than is taken."""
    return Problem(413, "too-large", "Body too large", f"At most {max_bytes} bytes fit.", max_bytes=max_bytes)


def internal_error(request: Request) -> Response:
    """The answer to an exception that nobody foresaw."""
    detail = "The server failed. Its log has the reason under the request id."
    return _answer(request, 500, "internal", "Internal error", detail)


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Problems that a route can answer, for its ``responses``."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


PROBLEM_SCHEMA = {
    "title": "Problem",
    "type": "object",
    "description": "RFC 9457; some types have further members",
    "required": ["type", "title", "status", "detail", "request_id"],
    "properties": {
        "type": {"type": "string", "pattern": "^urn:balletal:[a-z-]+$"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "request_id": {"type": "string"},
    },
}


def _answer(
    request: Request, status: int, urn: str, title: str, detail: str, headers: Any = None, **more: Any
) -> Response:
    request.state.problem = urn  # for the metrics
    body = {"type": f"urn:balletal:{urn}", "title": title, "status": status, "detail": detail}
    return JSONResponse(
        body | more | {"request_id": request.state.request_id},
        status,
        headers=headers,
        media_type="application/problem+json",
    )
