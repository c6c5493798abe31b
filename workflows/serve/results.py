"""What came of a job, in pages: detections and errors, from the tables that :mod:`workflows.score` wrote."""

import io
import json
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from balletal import files
from balletal.annotations import Annotations, video_table
from balletal.annotations.exchange import DOCUMENTS, label_studio, video_documents
from balletal.errors import InputError
from balletal.parquet import read_table
from balletal.segments import DETECTION_COLUMNS, segment_table
from workflows.serve.jobstore import Job


def segments_json(found: pd.DataFrame, model: str) -> list[dict[str, Any]]:
    """The rows of a segment table; scores as the Parquet table keeps them, so that they read the same everywhere."""
    return [
        {
            "video_id": str(row.video_id),
            "model": model,
            "label": str(row.label),
            "start": float(row.start),
            "end": float(row.end),
            "score": float(np.float32(row.score)),
        }
        | ({"tags": list(row.tags)} if getattr(row, "tags", None) is not None else {})
        for row in found.itertuples()
    ]


def detections(job: Job, model: str) -> pd.DataFrame:
    """Segment table with ``score``, and ``tags`` where it tells them, of one model; empty while there is none.

    By video, then as the localizer does.
    """
    try:
        table = read_table(job.path("results", model, "detections.parquet")).to_pandas()
        return table[[name for name in (*DETECTION_COLUMNS, "tags") if name in table]]
    except InputError:
        if files.exists(job.path("results", model, "run.json")):
            raise
        return segment_table(score=())


@dataclass(frozen=True)
class Position:
    """A place in the results of a job: the number of the model, and of the row in its table. It does not move when
    further models are finished."""

    model: int = 0
    row: int = 0

    def __str__(self) -> str:
        return f"{self.model}.{self.row}"

    @classmethod
    def parse(cls, token: str) -> "Position":
        """From the form ``<model>.<row>``."""
        model, _, row = token.partition(".")
        return cls(int(model), int(row))


def page(
    job: Job, start: Position, limit: int, *, model: str | None, label: str | None, min_score: float
) -> tuple[list[dict[str, Any]], Position | None]:
    """Up to ``limit`` segments from a place on that pass all filters, and the place of the next one."""
    segments: list[dict[str, Any]] = []
    for number, name in enumerate(job.request.bundles):
        if number < start.model or model not in (None, name):
            continue
        table = detections(job, name)
        chosen = table["score"] >= min_score
        if label is not None:
            chosen &= table["label"] == label
        if number == start.model:
            chosen &= np.arange(len(table)) >= start.row
        found = table[chosen].iloc[: limit + 1 - len(segments)]
        segments += segments_json(found, name)
        if len(segments) > limit:
            return segments[:limit], Position(number, int(found.index[-1]))
    return segments, None


def job_errors(job: Job) -> list[dict[str, str]]:
    """``input``, ``stage``, ``type`` and ``message`` of all that failed, each once."""
    _, missing = job.inputs() or ({}, [])
    ids = {files.absolute(one["uri"]): one["video_id"] for one in job.request.inputs if "video_id" in one}
    found = [(prefix, "list", "empty", f"{prefix}: expected videos, found none") for prefix in missing]
    for name in job.request.bundles:
        uri = job.path("results", name, "errors.parquet")
        rows = read_table(uri).to_pylist() if files.exists(uri) else []
        found += [
            (ids.get(row["uri"], row["uri"]), row["stage"], row["type"], job.public(row["message"])) for row in rows
        ]
    return [dict(zip(("input", "stage", "type", "message"), one, strict=True)) for one in dict.fromkeys(found)]


@dataclass(frozen=True)
class Exported:
    """A file to download."""

    name: str
    media_type: str
    content: bytes


MEDIA_TYPES = {
    "json": "application/json",
    "csv": "text/csv",
    "vtt": "text/vtt",
    "srt": "application/x-subrip",
    "eaf": "application/xml",
    "zip": "application/zip",
}
"""Of exported files; formats that are not here are JSON."""


def export(job: Job, model: str, to: str, *, min_score: float, video_id: str | None) -> Exported | None:
    """The detections of one model, of all videos or one, in another format; None where there are no such results.

    Args:
        to: ``json`` (a list of segments), ``activitynet``, ``csv``, ``label-studio``, or one of
            :data:`balletal.annotations.exchange.DOCUMENTS`, which hold one video each.
    """
    uri = job.path("results", model, "detections.json")
    if not files.exists(uri):
        return None
    results = files.read_json(uri)
    videos = sorted(results["results"]) if video_id is None else [video_id]
    if video_id is not None and video_id not in results["results"]:
        return None
    table = detections(job, model)
    table = table[(table["score"] >= min_score) & table["video_id"].isin(videos)].reset_index(drop=True)
    if to in DOCUMENTS:
        documents = video_documents(Annotations(table, video_table({video: {} for video in videos})), to)
        if len(documents) == 1:
            return Exported(f"detections.{to}", _media_type(to), next(iter(documents.values())))
        return Exported("detections.zip", _media_type("zip"), _zipped(documents))
    if to == "csv":
        columns = table[["video_id", *DETECTION_COLUMNS[1:]]].rename(columns={"video_id": "video"})
        return Exported("detections.csv", _media_type(to), columns.to_csv(index=False).encode())
    if to == "label-studio":
        content = label_studio(Annotations(table, video_table({video: {} for video in videos})))
    elif to == "activitynet":
        kept = {video: [one for one in results["results"][video] if one["score"] >= min_score] for video in videos}
        content = json.dumps(results | {"results": kept}, ensure_ascii=False, allow_nan=False).encode()
    else:
        content = json.dumps({"segments": segments_json(table, model)}, ensure_ascii=False, allow_nan=False).encode()
    return Exported("detections.json", _media_type("json"), content)


def _media_type(to: str) -> str:
    return MEDIA_TYPES.get(to, MEDIA_TYPES["json"])


def _zipped(documents: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, document in documents.items():
            archive.writestr(name, document)
    return sink.getvalue()
