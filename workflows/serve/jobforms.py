"""What is asked of jobs over HTTP, and what is answered: the bodies and parameters of :mod:`workflows.serve.jobs`."""

from typing import Annotated, Literal

from fastapi import Header, Query
from pydantic import BaseModel, Field, model_validator

from workflows.serve.bodies import Strict
from workflows.serve.context import Context
from workflows.serve.data import ID
from workflows.serve.jobstore import FINISHED, Done, Job, State, Status, rfc3339
from workflows.serve.models import NAME
from workflows.serve.places import library_video, video_uri

Key = Annotated[
    str | None,
    Header(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$", description="of your jobs, one alone has it"),
]
Limit = Annotated[int, Query(ge=1, le=10_000, description="at most so many in a page")]
ModelName = Annotated[str | None, Query(pattern=NAME, description="`name` or `name@version`")]
Label = Annotated[str | None, Query(min_length=1, max_length=200, description="of this class alone")]
MinScore = Annotated[float, Query(ge=0, le=1, allow_inf_nan=False, description="lowest score")]
NEXT_PAGE = "`next_page_token` of the page before"
Format = Literal["json", "csv", "activitynet", "eaf", "vtt", "srt", "otio", "label-studio"]
Uri = Annotated[str, Field(min_length=1, max_length=2048, pattern=r"^[^\x00-\x1f\x7f]+$")]


class Input(Strict):
    """One of a video that is here, a video in a place that is allowed, and all videos below such a place."""

    video_id: str | None = Field(None, pattern=f"^{ID}$")
    uri: Uri | None = None
    prefix: Uri | None = None
    glob: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        None, description="of the names below the prefix, such as *.mp4; * also stands for slashes"
    )

    @model_validator(mode="after")
    def _one(self) -> "Input":
        if sum(one is not None for one in (self.video_id, self.uri, self.prefix)) != 1:
            raise ValueError("give one of video_id, uri and prefix")
        if self.glob is not None and self.prefix is None:
            raise ValueError("glob goes with prefix")
        return self

    def resolved(self, here: Context, owner: str) -> dict[str, str]:
        """The input as a driver needs it.

        Raises:
            Problem: 404, no such video; 422, a place that is not allowed, or no video's name.
        """
        if self.video_id is not None:
            return {"video_id": self.video_id, "uri": library_video(here, owner, self.video_id)}
        if self.uri is not None:
            return {"uri": video_uri(here, self.uri, suffix=True)}
        found = {"prefix": video_uri(here, str(self.prefix))}
        return found if self.glob is None else found | {"glob": self.glob}


class Params(Strict):
    min_score: float = Field(0.0, ge=0, le=1, allow_inf_nan=False, description="lowest score")
    top_k: int | None = Field(None, ge=1, le=1_000_000, description="at most so many segments a video, the best")
    coarse: bool = Field(False, description="answer in the coarse classes of a fine model")


class JobWanted(Strict):
    """What a job is to do."""

    inputs: list[Input] = Field(min_length=1, max_length=100_000, fail_fast=True)
    models: list[Annotated[str, Field(pattern=NAME)]] | None = Field(None, min_length=1, max_length=32)
    params: Params = Params()
    output_uri: Uri | None = Field(None, description="a folder in a place that is allowed; gets a copy of the results")


class Progress(BaseModel):
    done: int
    total: int
    unit: Literal["segments", "videos"]


class Counts(BaseModel):
    total: int
    ok: int
    failed: int
    skipped: int = Field(description="not looked at, because the job ended before")


class JobBody(BaseModel):
    """A job."""

    id: str
    status: Status
    created: str
    updated: str
    models: list[str]
    inputs: int
    video_ids: list[str] = Field(description="of the inputs, those that are videos here")
    params: Params
    progress: Progress
    counts: Counts
    error: str | None = None
    output_uri: str | None = None
    links: dict[str, str]

    @property
    def finished(self) -> bool:
        return self.status in FINISHED


class JobsPage(BaseModel):
    jobs: list[JobBody]
    next_page_token: str | None = None


class Segment(BaseModel):
    """A step that was found; times are seconds."""

    video_id: str
    model: str
    label: str
    start: float
    end: float
    score: float
    tags: list[str] | None = Field(
        None, exclude_if=lambda tags: tags is None, description="what else is said of it, by models that tell tags"
    )


class ResultsPage(BaseModel):
    segments: list[Segment]
    next_page_token: str | None = None


class InputFailure(BaseModel):
    """Something that failed with one input."""

    input: str
    stage: str
    type: str
    message: str


class ErrorsPage(BaseModel):
    errors: list[InputFailure]
    next_page_token: str | None = None


EVENT_SCHEMA = {
    "title": "Event",
    "description": "one event of the stream",
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": ["status", "progress", "segment", "done"]},
        "id": {"type": "string", "pattern": "^[0-9]+$", "description": "none of `progress`"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "description": "`{status}`, `{done, total, unit, counts}`, a Segment or a JobBody",
        },
    },
}


def job_body(job: Job) -> JobBody:
    """A job as it is now."""
    request, done = job.request, job.done()
    state = job.state() or State(0, "queued", request.created)
    inputs = job.total(state)
    here = f"/v1/jobs/{job.id}"
    return JobBody(
        id=job.id,
        status=done.status if done else state.status,
        created=rfc3339(request.created),
        updated=rfc3339(done.finished if done else state.heartbeat),
        models=list(request.bundles),
        inputs=inputs,
        video_ids=[one["video_id"] for one in request.inputs if "video_id" in one],
        params=Params(**request.params),
        progress=Progress(done=state.done, total=state.total, unit=state.unit),
        counts=Counts(**_counts(done, inputs)),
        error=done.error if done else None,
        output_uri=request.output_uri,
        links={"self": here} | {name: f"{here}/{name}" for name in ("events", "results", "errors", "export")},
    )


def _counts(done: Done | None, inputs: int) -> dict[str, int]:
    return done.counts if done else {"total": inputs, "ok": 0, "failed": 0, "skipped": 0}
