"""What a reader of annotations gives: segments, tags, videos, and every row that could not be one."""

import dataclasses
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

import schemas
from balletal.errors import InputError
from balletal.labels import LabelSet
from balletal.segments import SEGMENT_COLUMNS, segment_table

# Kinds of problem. An error is a step that cannot be used as one; a warning can be, or stands for no step.
ERRORS = {
    "malformed": "a row or entry that does not have the form of its file",
    "no-time": "a step without a start or an end",
    "bad-time": "a time that is not a finite number",
    "no-label": "a segment without a label",
    "no-video": "a row that names no video",
    "no-score": "a detection without a score",
    "unknown-label": "a label outside the label set",
    "zero-length": "a segment that ends where it starts",
    "reversed": "a segment that ends before it starts",
    "out-of-range": "a segment with no part inside its video",
}
WARNINGS = {
    "empty": "a row that says nothing",
    "beyond-duration": "a segment that reaches out of its video",
    "duplicate": "a segment that stands there twice",
    "overlap": "a segment that overlaps an earlier one of its video",
}

SUBSETS = ("training", "validation", "testing")
_SUBSET_NAMES = {"train": "training", "val": "validation", "valid": "validation", "test": "testing"}


def subset_name(name: str) -> str:
    """The name we use for a subset: ``training``, ``validation``, ``testing``; another one as it is."""
    return _SUBSET_NAMES.get(name.lower(), name.lower() if name.lower() in SUBSETS else name)


@dataclass(frozen=True)
class Problem:
    """Something wrong with one row.

    Attributes:
        where: the file, or the video for what concerns a row of the segment table.
        row: line of the file (from 1; 0: the file has no lines that count), or index in the segment table.
        kind: a key of ``ERRORS`` or ``WARNINGS``.
    """

    where: str
    row: int
    kind: str
    message: str

    @property
    def severity(self) -> Literal["error", "warning"]:
        return "error" if self.kind in ERRORS else "warning"


@dataclass(frozen=True, eq=False)
class Annotations:
    """Annotated (or detected) segments of videos.

    Attributes:
        segments: segment table of steps, with ``score`` for detections, and ``tags`` (lists of names) where the file
            tells those of each; in file order.
        videos: one row a video: ``video_id``, ``duration`` (s), ``fps`` (NaN when unknown), ``subset`` and ``solo``
            (whether one dancer is seen; None when unknown).
        tags: segment table of what is no step but goes with steps (``Backwards``).
        problems: the rows that are none of these.
        taxonomy: the labels that the file names, whether a segment has them or not; empty where it names none.
    """

    segments: pd.DataFrame
    videos: pd.DataFrame
    tags: pd.DataFrame = field(default_factory=segment_table)
    problems: list[Problem] = field(default_factory=list)
    taxonomy: tuple[str, ...] = ()

    def select(self, video_ids: Collection[str] | None = None, subset: str | None = None) -> "Annotations":
        """Those of some videos, of one subset, or both; problems are kept whole.

        Raises:
            InputError: no video has that subset.
        """
        chosen = pd.Series(True, index=self.videos.index)
        if subset is not None:
            names = self.videos["subset"].map(subset_name, na_action="ignore")
            chosen &= names == subset_name(subset)
            if not chosen.any():
                there = ", ".join(sorted(set(names.dropna()))) or "no subset in the file"
                raise InputError(f"subset {subset!r}", expected="a subset that a video has", found=there)
        if video_ids is not None:
            chosen &= self.videos["video_id"].isin(list(video_ids))
        videos = self.videos[chosen].reset_index(drop=True)
        ids = set(videos["video_id"])
        segments, tags = (t[t["video_id"].isin(ids)].reset_index(drop=True) for t in (self.segments, self.tags))
        return dataclasses.replace(self, segments=segments, videos=videos, tags=tags)

    @cached_property
    def durations(self) -> dict[str, float]:
        """Video id -> seconds, of the videos whose duration is known."""
        known = self.videos.dropna(subset=["duration"])
        return dict(zip(known["video_id"], known["duration"], strict=True))


class Collector:
    """Gathers the rows of one or more files; every reader fills one and calls :meth:`finish`."""

    def __init__(self, labels: LabelSet | None) -> None:
        self.labels = labels
        self.to_coarse, self.tag_names = _vocabulary(labels)
        self.rows: list[dict[str, Any]] = []
        self.videos: dict[str, dict[str, Any]] = {}
        self.problems: list[Problem] = []
        self.taxonomy: dict[str, None] = {}
        self.scored = False  # a file of detections: there is a column score even if no row is left

    def problem(self, where: str, row: int, kind: str, message: str) -> None:
        self.problems.append(Problem(where, row, kind, message))

    def video(self, video_id: str, **known: object) -> None:
        """Note a video and what is known of it; what an earlier file said stays."""
        entry = self.videos.setdefault(video_id, dict.fromkeys(("duration", "fps", "subset", "solo")))
        for name, value in known.items():
            if value is not None and entry[name] is None:
                entry[name] = value

    def segment(
        self, where: str, row: int, video_id: str, start: object, end: object, label: object, **more: object
    ) -> None:
        """Take one segment, or note why it cannot be one."""
        self.video(video_id)
        times = [self._seconds(where, row, video_id, value) for value in (start, end)]
        if None in times:
            return
        name = "" if label is None else str(label).strip()
        if not name:
            self.problem(where, row, "no-label", f"video {video_id}: {times[0]} - {times[1]} s has no label")
            return
        name = self.to_coarse.get(name, name)
        self.rows.append({"video_id": video_id, "start": times[0], "end": times[1], "label": name} | more)

    def _seconds(self, where: str, row: int, video_id: str, value: object) -> float | None:
        if value is None or value == "":
            self.problem(where, row, "no-time", f"video {video_id}: a segment without start or end")
            return None
        try:
            seconds = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            seconds = float("nan")
        if not np.isfinite(seconds):
            self.problem(where, row, "bad-time", f"video {video_id}: {value!r} is no time in seconds")
            return None
        return seconds

    def finish(self) -> Annotations:
        """The tables of all that was gathered."""
        steps = _table(row for row in self.rows if row["label"] not in self.tag_names)
        tags = _table(row for row in self.rows if row["label"] in self.tag_names)
        if self.scored and "score" not in steps:
            steps["score"] = np.empty(0)
        if self.labels is not None:
            # Ids belong to the set that the file was written for.
            steps, tags = (table.drop(columns="label_id", errors="ignore") for table in (steps, tags))
        names = tuple(dict.fromkeys(self.to_coarse.get(name, name) for name in self.taxonomy))
        return Annotations(steps, video_table(self.videos), tags, self.problems, names)


def video_table(videos: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """The table of videos from video id -> {duration, fps, subset, solo}."""
    return pd.DataFrame(
        {
            "video_id": pd.Series(list(videos), dtype="str"),
            "duration": np.array([v.get("duration") for v in videos.values()], dtype=np.float64),
            "fps": np.array([v.get("fps") for v in videos.values()], dtype=np.float64),
            "subset": pd.Series([v.get("subset") for v in videos.values()], dtype=object),
            "solo": pd.Series([v.get("solo") for v in videos.values()], dtype=object),
        }
    )


def _table(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    columns: dict[str, Any] = {name: [row.get(name) for row in rows] for name in names}
    if "score" in columns:
        columns["score"] = np.array(columns["score"], dtype=np.float64)
    if "label_id" in columns:
        columns["label_id"] = pd.array(columns["label_id"], dtype="Int64")
    fixed = {name: columns.pop(name, []) for name in SEGMENT_COLUMNS}
    return segment_table(**fixed).assign(**columns)


def _vocabulary(labels: LabelSet | None) -> tuple[dict[str, str], set[str]]:
    """How names are read: fine name -> name in ``labels``; the names that are tags."""
    shipped = list(shipped_label_sets())
    finer = [s for s in shipped if labels is not None and s.coarse_set == labels.name]
    to_coarse = {fine: coarse for s in finer for fine, coarse in s.coarse}
    tags = {tag for s in shipped for tag in s.tags}
    if labels is not None:
        tags = (tags | set(labels.tags)) - set(labels.labels)
        to_coarse = {fine: coarse for fine, coarse in to_coarse.items() if fine not in labels.index}
    return to_coarse, tags


def shipped_label_sets() -> Iterator[LabelSet]:
    """Every label set that comes with the project."""
    return (LabelSet.load(name) for name in schemas.label_set_names())
