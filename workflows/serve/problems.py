"""Errors as `application/problem+json` (RFC 9457): stable `urn:balletal:*` types, a request id, nothing internal."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from balletal.errors import VideoError

# Files that are no video of a kind that we take are a wrong media type; the other kinds are videos that cannot be used.
_NO_VIDEO = ("not-a-video", "no-video-stream", "unsupported-codec")

# What the framework itself answers.
_URNS = {400: "bad-parameters", 404: "not-found", 405: "method-not-allowed", 413: "too-large", 415: "media-type"}

# Of answers of a status, whoever gives them.
_HEADERS = {401: {"WWW-Authenticate": 'Bearer realm="balletal"'}, 429: {"Retry-After": "5"}, 503: {"Retry-After": "5"}}


class Problem(Exception):  # noqa: N818 - the word of RFC 9457
    """An answer other than the result. ``more`` are further members of the problem object."""

    def __init__(self, status: int, urn: str, title: str, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.status, self.urn, self.title, self.detail, self.more = status, urn, title, detail, more


def video_problem(error: VideoError) -> Problem:
    """The answer to a video that cannot be used. The error's place is a file of ours, so it stays out."""
    status = 415 if error.kind in _NO_VIDEO else 422
    detail = f"expected {error.expected}, found {error.found}".replace(error.where, "the upload")
    return Problem(status, "bad-video", "The video cannot be used", detail, kind=error.kind)


def install_problems(app: FastAPI) -> None:
    """Make every error that a route raises a problem; :mod:`workflows.serve.observe` sees to the rest.

    An exception that nobody foresaw is left to it.
    """

    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> Response:
        headers = _HEADERS.get(error.status, {})
        return _answer(request, error.status, error.urn, error.title, error.detail, headers, **error.more)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        urn = _URNS.get(error.status_code, "http")
        return _answer(
            request, error.status_code, urn, error.detail, f"{request.method} {request.url.path}", error.headers
        )

    @app.exception_handler(RequestValidationError)
    async def parameters(request: Request, error: RequestValidationError) -> Response:
        # Where and why, without the input: an error must not mirror what was sent.
        found = [{"parameter": str(one["loc"][-1]), "message": one["msg"]} for one in error.errors()]
        detail = "; ".join(f"{one['parameter']}: {one['message']}" for one in found)
        return _answer(request, 422, "bad-parameters", "Parameters out of range", detail, errors=found)


def internal_error(request: Request) -> Response:
    """The answer to an exception that nobody foresaw."""
    detail = "The server failed. Its log has the reason under the request id."
    return _answer(request, 500, "internal", "Internal error", detail)


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Problems that a route can answer, for its ``responses``."""
    content = {"application/problem+json": {"schema": _SCHEMA}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


_SCHEMA = {
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
