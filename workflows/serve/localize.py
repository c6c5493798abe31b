"""Localizing a short video, or a part of a video, while the client waits."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse
from pydantic import Field, model_validator

from balletal.errors import VideoError
from balletal.video.guard import GuardError, guarded
from balletal.video.probe import VideoInfo, probe
from workflows.serve.backend import Answer, Model, Part
from workflows.serve.bodies import BINARY, Strict, check_media_type, parsed, receive
from workflows.serve.context import Context, Here, Owner
from workflows.serve.data import ID
from workflows.serve.jobforms import Input, JobBody, JobWanted, Key, Params, Uri
from workflows.serve.jobs import submitted
from workflows.serve.library import Library
from workflows.serve.media import LOOK_S, looking, require_within
from workflows.serve.metrics import Stages
from workflows.serve.models import NAME, model_of
from workflows.serve.problems import Problem, answers, video_problem

router = APIRouter(tags=["models"])


class Wanted(Strict):
    """What is asked of a video."""

    model: str | None = Field(None, pattern=NAME, description="`name` or `name@version`; none: the default one")
    start: float | None = Field(None, ge=0, le=1e6, allow_inf_nan=False, description="seconds; localize from there on")
    end: float | None = Field(None, gt=0, le=1e6, allow_inf_nan=False, description="seconds; localize up to there")
    min_score: float = Field(0.0, ge=0, le=1, allow_inf_nan=False, description="lowest score")
    top_k: int | None = Field(None, ge=1, le=1_000_000, description="at most so many segments, the best")

    @model_validator(mode="after")
    def _ordered(self) -> "Wanted":
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise ValueError("start must be before end")
        return self

    def part(self) -> Part:
        """The same for a backend."""
        return Part(self.start, self.end, self.min_score, self.top_k)


class WantedOf(Wanted):
    """What is asked of which video."""

    video_id: str | None = Field(None, pattern=f"^{ID}$", description="a video that was uploaded")
    uri: Uri | None = Field(None, description="a video in a place that is allowed")

    @model_validator(mode="after")
    def _one(self) -> "WantedOf":
        if (self.video_id is None) == (self.uri is None):
            raise ValueError("give one of video_id and uri")
        return self


_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/WantedOf"}},
        "application/octet-stream": BINARY,
        "video/*": BINARY,
    },
}
_RESULT = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Result"}}}}
_JOB = {"model": JobBody, "description": "a job does it, because the client prefers that"}
Prefer = Annotated[
    str | None, Header(max_length=1000, description="`respond-async` (RFC 7240): make a job of it, of a video by name")
]


@router.post(
    "/v1/localize",
    response_model=None,
    responses={200: _RESULT, 202: _JOB, **answers(404, 408, 413, 415, 429, 507)},
    openapi_extra={"requestBody": _BODY},
)
async def localize(
    here: Here,
    owner: Owner,
    request: Request,
    wanted: Annotated[Wanted, Query()],
    prefer: Prefer = None,
    idempotency_key: Key = None,
) -> JSONResponse:
    """Find the steps in a short video, or in a part of a longer one.

    The body is either the video itself, and the query says what is wanted, or JSON that names a video and says so.
    With `Prefer: respond-async` a video of any length that JSON names becomes a job, as `POST /v1/jobs` makes it;
    `Idempotency-Key` is for that alone.
    """
    check_media_type(request, "application/octet-stream", "video/", "application/json")
    named = request.headers["content-type"].lower().startswith("application/json")
    if _async(prefer):
        return await _as_job(here, owner, await parsed(request, WantedOf) if named else None, idempotency_key)
    async with _place(here):
        if named:
            asked = await parsed(request, WantedOf)
            model = await model_of(here, asked.model)
            uri, info = await asyncio.to_thread(_source, here, owner, asked)
            return await _answered(here, model, uri, info, asked, Stages())
        model, stage = await model_of(here, wanted.model), Stages()
        with tempfile.TemporaryDirectory(prefix="balletal-") as folder:
            file = Path(folder) / "upload"
            with stage("receive"):
                await receive(request, file, here.limits.max_body_bytes)
            return await _answered(here, model, file, None, wanted, stage)


async def _answered(
    here: Context, model: Model, video: str | Path, info: VideoInfo | None, wanted: Wanted, stage: Stages
) -> JSONResponse:
    try:
        if info is None:
            with stage("probe"):
                info = await looking(partial(guarded, probe, str(video), uri=str(video), limit_s=LOOK_S))
        require_within(info, here.limits)
        _check_duration(here, info, wanted)
        found = await here.backend.localize(model.id, video, info, wanted.part())
    except VideoError as error:
        raise video_problem(error) from None
    except GuardError:
        raise Problem(503, "busy", "Busy", "No video can be looked at now. Try again later.") from None
    stage.update(found.seconds)
    for name, seconds in stage.items():
        here.metrics.stage(name, seconds)
    timing = ", ".join(f"{name};dur={1000 * seconds:.0f}" for name, seconds in stage.items())
    return JSONResponse(_result(info, model, found), headers={"Server-Timing": timing})


def _async(prefer: str | None) -> bool:
    return any(one.partition(";")[0].strip().lower() == "respond-async" for one in (prefer or "").split(","))


async def _as_job(here: Context, owner: str, asked: WantedOf | None, key: str | None) -> JSONResponse:
    """Make a job of what is asked of a video by name; jobs are of whole videos."""
    if asked is None or (asked.start, asked.end) != (None, None):
        detail = "A job is of a whole video." if asked else "Upload the video first, and name it by its id in JSON."
        raise Problem(422, "bad-parameters", "Not for a job", detail)
    wanted = JobWanted(
        inputs=[Input(video_id=asked.video_id, uri=asked.uri)],
        models=None if asked.model is None else [asked.model],
        params=Params(min_score=asked.min_score, top_k=asked.top_k),
    )
    body, _ = await submitted(here, owner, wanted, key)
    headers = {"Location": body.links["self"], "Preference-Applied": "respond-async"}
    return JSONResponse(body.model_dump(mode="json"), 202, headers)


@asynccontextmanager
async def _place(here: Context) -> AsyncIterator[None]:
    """One of the places for requests with a video: each may hold a body of disk."""
    if here.localizing.locked():
        raise Problem(503, "busy", "Busy", "As many videos as fit are being worked on. Try again later.")
    async with here.localizing:
        yield


def _source(here: Context, owner: str, wanted: WantedOf) -> tuple[str, VideoInfo | None]:
    """Where the video is that a request names, and what is known of it.

    Raises:
        Problem: 404, no such video of this owner; 422, a place that is not allowed.
    """
    if wanted.uri is not None:
        return here.sources.require(wanted.uri), None
    library = Library(here.data)
    video = library.find(owner, str(wanted.video_id))
    uri = library.content(video)
    return uri, video.info(uri)


_ELSEWHERE = "Upload longer videos and make a job of them."


def _check_duration(here: Context, info: VideoInfo, wanted: Wanted) -> None:
    limits = here.limits
    start, end = wanted.start or 0.0, min(wanted.end or info.duration, info.duration)
    if start >= info.duration:
        detail = f"The video lasts {info.duration:.2f} s; start must be before that."
        raise Problem(422, "bad-parameters", "Parameters out of range", detail, duration=info.duration)
    # A container's clock is rounded: 30 s of video may read as 30.02 s.
    too_long = end - start > limits.max_localize_s + 0.1
    if not too_long and (end - start == info.duration or info.duration <= limits.max_part_of_s):
        return
    allowed = (
        f"a request takes {limits.max_localize_s:g} s"
        if too_long
        else f"a request takes parts of videos of up to {limits.max_part_of_s:g} s"
    )
    raise Problem(
        422,
        "use-async",
        "Too long for one request",
        f"The video lasts {info.duration:.1f} s, {allowed}. {_ELSEWHERE}",
        duration=info.duration,
        max_seconds=limits.max_localize_s if too_long else limits.max_part_of_s,
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
        "model": {"name": model.name, "version": model.version, "digest": model.digest},
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
