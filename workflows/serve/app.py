"""The HTTP API over a backend. Knows HTTP and no Ray.

GET /v2/health/live, GET /v2/health/ready, POST /v1/localize (schemas/result.schema.json).
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse

import schemas
from balletal.errors import VideoError
from balletal.video.probe import VideoInfo, probe
from workflows.serve.backend import Answer, Backend, Model
from workflows.serve.problems import Problem, install_problems, video_problem


@dataclass(frozen=True)
class Limits:
    """What one request may cost.

    Attributes:
        max_bytes: of a body.
        max_seconds: of a video; longer ones are work for a job, not for a request.
        at_once: requests with a video that are taken at the same time; each may hold ``max_bytes`` of disk.
    """

    max_bytes: int = 64 << 20
    max_seconds: float = 30.0
    at_once: int = 8


def create_app(backend: Backend, limits: Limits | None = None) -> FastAPI:
    """The app. Every error that it answers is `application/problem+json`."""
    limits = limits or Limits()
    # The pages of docs_url and redoc_url load scripts from elsewhere; /openapi.json is the same in plain.
    app = FastAPI(title="balletal", docs_url=None, redoc_url=None)
    install_problems(app)
    taken = 0

    @asynccontextmanager
    async def place() -> AsyncIterator[None]:
        nonlocal taken
        if taken >= limits.at_once:
            raise Problem(503, "busy", "Busy", f"{limits.at_once} videos are being worked on. Try again later.")
        taken += 1
        try:
            yield
        finally:
            taken -= 1

    @app.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        """The process answers."""
        return {"live": True}

    @app.get("/v2/health/ready")
    async def ready() -> dict[str, bool]:
        """Videos can be sent."""
        if not await backend.ready():
            raise Problem(503, "not-ready", "Not ready", "The model is not loaded yet. Try again later.")
        return {"ready": True}

    body = {"required": True, "content": dict.fromkeys(("application/octet-stream", "video/*"), _BINARY)}
    answer = {200: {"content": {"application/json": {"schema": schemas.json_schema("result")}}}}

    @app.post("/v1/localize", response_model=None, responses=answer, openapi_extra={"requestBody": body})  # type: ignore[arg-type]
    async def localize(
        request: Request,
        min_score: Annotated[float, Query(ge=0, le=1, allow_inf_nan=False, description="Lowest score.")] = 0.0,
        top_k: Annotated[int | None, Query(ge=1, description="At most so many segments, the best.")] = None,
    ) -> JSONResponse:
        """Find the steps in the video that is the body of the request."""
        _check_media_type(request)
        async with place():
            with tempfile.TemporaryDirectory(prefix="balletal-") as folder:
                video = Path(folder) / "upload"
                await _receive(request, video, limits.max_bytes)
                try:
                    info = await asyncio.to_thread(probe, str(video))
                    _check_duration(info, limits.max_seconds)
                    found = await backend.localize(video, info, min_score=min_score, top_k=top_k)
                except VideoError as error:
                    raise video_problem(error) from None
        return JSONResponse(_result(info, await backend.model(), found))

    return app


_BINARY = {"schema": {"type": "string", "format": "binary"}}


def _check_media_type(request: Request) -> None:
    """Only types that a web page cannot send to another origin unasked: a form of some site must not reach a model."""
    found = request.headers.get("content-type", "none").split(";")[0].strip().lower()
    if found != "application/octet-stream" and not found.startswith("video/"):
        raise Problem(
            415,
            "media-type",
            "Unsupported media type",
            f"Expected the video itself as application/octet-stream or video/*, found {found}. With curl: "
            "-H 'Content-Type: application/octet-stream' --data-binary @FILE",
        )


async def _receive(request: Request, path: Path, max_bytes: int) -> None:
    """Stream the body to a file, and stop at the limit whatever the headers say."""
    declared = request.headers.get("content-length", "")
    size = int(declared) if declared.isdecimal() else 0
    if size <= max_bytes:
        size = 0
        with path.open("wb") as file:
            async for chunk in request.stream():
                size += len(chunk)
                if size > max_bytes:
                    break
                await asyncio.to_thread(file.write, chunk)
    if size > max_bytes:
        limit = f"A body may have {max_bytes >> 20} MiB."
        raise Problem(413, "too-large", "Body too large", f"{limit} {_ELSEWHERE}", max_bytes=max_bytes)


_ELSEWHERE = "For longer videos run: balletal score --bundle BUNDLE --videos FOLDER --out FOLDER"


def _check_duration(info: VideoInfo, max_seconds: float) -> None:
    # A container's clock is rounded: 30 s of video may read as 30.02 s.
    if info.duration > max_seconds + 0.1:
        raise Problem(
            422,
            "use-async",
            "Too long for one request",
            f"The video lasts {info.duration:.1f} s, a request takes {max_seconds:g} s. {_ELSEWHERE}",
            duration=info.duration,
            max_seconds=max_seconds,
        )


def _result(info: VideoInfo, model: Model, found: Answer) -> dict[str, Any]:
    """The Result: seconds as they are, and the frames of the source that they fall on."""
    video = asdict(info)
    del video["uri"]
    warnings = list(found.warnings)
    if info.vfr:
        warnings.append("The frame rate varies: frame numbers follow the average rate and are approximate.")
    return {
        "video": video,
        "model": asdict(model),
        "segments": [_segment(row, info) for row in found.segments.itertuples()],
        "warnings": warnings,
    }


def _segment(row: Any, info: VideoInfo) -> dict[str, Any]:
    last = max(info.frames - 1, 0)
    start_frame = min(round(row.start * info.fps), last)
    end_frame = max(start_frame + 1, min(round(row.end * info.fps), info.frames))
    return {
        "label": str(row.label),
        "start": float(row.start),
        "end": float(row.end),
        "start_frame": start_frame,
        "end_frame": end_frame,
        "score": float(row.score),
    } | ({"tags": list(row.tags)} if hasattr(row, "tags") else {})
