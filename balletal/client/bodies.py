"""What the service answers. Members that it may come to have later are passed over."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from balletal.segments import segment_table


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True)


class Bounds(_Body):
    """Of the limits, those that decide how a file is sent."""

    max_body_bytes: int = Field(gt=0)
    max_chunk_bytes: int = Field(gt=0)


class Feature(_Body):
    """The features that a model reads; a feature every ``stride_s`` seconds."""

    extractor: str
    dim: int
    stride_s: float
    spec_id: str


class Model(_Body):
    """A bundle that is served."""

    name: str
    version: str
    digest: str
    labels: tuple[str, ...]
    tags: tuple[str, ...] = ()
    feature: Feature

    @property
    def id(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"


class Models(_Body):
    """The models. ``default`` is the ``name@version`` that answers where none is named."""

    models: tuple[Model, ...]
    default: str


class Upload(_Body):
    """An upload: ``offset`` of its ``bytes`` are there."""

    id: str
    filename: str
    bytes: int
    offset: int


class Video(_Body):
    """A video that is there. Times are seconds, sizes are those of the displayed picture."""

    video_id: str
    name: str
    bytes: int
    sha256: str
    created: datetime
    codec: str
    width: int
    height: int
    rotation: int
    fps: float
    vfr: bool
    duration: float
    frames: int
    playable: bool
    warnings: tuple[str, ...]


class Videos(_Body):
    """A page of videos."""

    videos: tuple[Video, ...]


class Progress(_Body):
    """How far a job is with the stage that it is in."""

    done: int
    total: int
    unit: str


class Counts(_Body):
    """The videos of a job; ``skipped`` are those that were not looked at, because it ended before."""

    total: int
    ok: int
    failed: int
    skipped: int


class Job(_Body):
    """A job. ``error`` says why one has failed."""

    id: str
    status: Literal[
        "queued", "validating", "extracting", "localizing", "writing", "succeeded", "partial", "failed", "cancelled"
    ]
    created: datetime
    updated: datetime
    models: tuple[str, ...]
    inputs: int
    params: dict[str, Any]
    progress: Progress
    counts: Counts
    error: str | None = None
    output_uri: str | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in ("succeeded", "partial", "failed", "cancelled")


class JobsPage(_Body):
    """A page of jobs."""

    jobs: tuple[Job, ...]


class Failure(_Body):
    """Something that failed with one input of a job."""

    input: str
    stage: str
    type: str
    message: str


class Failures(_Body):
    """A page of failures."""

    errors: tuple[Failure, ...]


class Segment(_Body):
    """A step that a job found; times are seconds."""

    video_id: str
    model: str
    label: str
    start: float
    end: float
    score: float
    tags: list[str] | None = None


class Segments(_Body):
    """A page of segments."""

    segments: tuple[Segment, ...]

    def table(self) -> pd.DataFrame:
        """Segment table with ``score`` and ``model``, and ``tags`` where a model tells them."""
        columns = {name: [getattr(one, name) for one in self.segments] for name in Segment.model_fields}
        model, tags = pd.Series(columns.pop("model"), dtype="str"), columns.pop("tags")
        return _tagged(segment_table(**columns).assign(model=model), tags)


@dataclass(frozen=True)
class Event:
    """Something that happens to a job.

    Attributes:
        name: ``status``, ``progress``, ``segment`` or ``done``.
        data: {status}; {done, total, unit, counts}; a segment; the job.
        id: events behind it can be asked for; ``progress`` has none, as only the latest counts.
    """

    name: str
    data: dict[str, Any]
    id: int | None = None


@dataclass(frozen=True, eq=False)
class Result:
    """What was found in one video.

    Attributes:
        segments: segment table with ``score``, ``start_frame`` and ``end_frame``, and ``tags`` (lists of names) where
            the model tells them; sorted by start, then falling score.
        video, model: facts of them.
        warnings: what one should know, in words.
        body: all of it as the service told it (schemas/result.schema.json).
    """

    segments: pd.DataFrame
    video: dict[str, Any]
    model: dict[str, str]
    warnings: tuple[str, ...]
    body: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, body: dict[str, Any], video_id: str) -> "Result":
        """From the service's JSON."""
        names = ("start", "end", "label", "score", "start_frame", "end_frame")
        columns = {name: [one[name] for one in body["segments"]] for name in names}
        table = _tagged(segment_table(video_id, **columns), [one.get("tags") for one in body["segments"]])
        video = body["video"] | {"duration": float(body["video"]["duration"])}
        model = {name: str(body["model"][name]) for name in ("name", "version", "digest")}
        return cls(table, video, model, tuple(body["warnings"]), body)


def _tagged(table: pd.DataFrame, tags: list[list[str] | None]) -> pd.DataFrame:
    """With the column ``tags``, lists of names or None, if there are any lists."""
    return table if all(one is None for one in tags) else table.assign(tags=pd.Series(tags, dtype=object))
