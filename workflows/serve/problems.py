"""Errors as `application/problem+json` (RFC 9457): stable `urn:balletal:*` types, a request id, nothing internal."""

import logging
import re
import uuid
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from balletal.errors import VideoError

log = logging.getLogger(__name__)

# Files that are no video of a kind that we take are a wrong media type; the other kinds are videos that cannot be used.
_NO_VIDEO = ("not-a-video", "no-video-stream", "unsupported-codec")

_REQUEST_ID = re.compile(r"[\w.-]{1,128}", re.ASCII)


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
    """Make every error of an app a problem with a request id: the request's own ``X-Request-ID``, else a new one.

    Ray Serve's proxy gives each request one, logs it and sends it back; without a proxy this does.
    """

    @app.middleware("http")
    async def identify(request: Request, call_next: Any) -> Response:
        given = request.headers.get("X-Request-ID")
        usable = given is not None and _REQUEST_ID.fullmatch(given)
        request.state.request_id = given if usable else uuid.uuid4().hex
        response: Response = await call_next(request)
        if given is None:
            response.headers["X-Request-ID"] = request.state.request_id
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-store"
        return response

    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> Response:
        headers = {"Retry-After": "5"} if error.status == 503 else {}
        return _answer(request, error.status, error.urn, error.title, error.detail, headers, **error.more)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        urn = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "http")
        return _answer(
            request, error.status_code, urn, error.detail, f"{request.method} {request.url.path}", error.headers
        )

    @app.exception_handler(RequestValidationError)
    async def parameters(request: Request, error: RequestValidationError) -> Response:
        # Where and why, without the input: an error must not mirror what was sent.
        found = [{"parameter": str(one["loc"][-1]), "message": one["msg"]} for one in error.errors()]
        detail = "; ".join(f"{one['parameter']}: {one['message']}" for one in found)
        return _answer(request, 422, "bad-parameters", "Parameters out of range", detail, errors=found)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        log.error("request %s failed", request.state.request_id, exc_info=error)
        detail = "The server failed. Its log has the reason under the request id."
        return _answer(request, 500, "internal", "Internal error", detail)


def _answer(
    request: Request, status: int, urn: str, title: str, detail: str, headers: Any = None, **more: Any
) -> Response:
    body = {"type": f"urn:balletal:{urn}", "title": title, "status": status, "detail": detail}
    return JSONResponse(
        body | more | {"request_id": request.state.request_id},
        status,
        headers=headers,
        media_type="application/problem+json",
    )
