"""Reading annotations of any known format, told apart by content; plain CSV; Parquet; WebVTT."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from balletal import files
from balletal.annotations.activitynet import is_activitynet, read_activitynet
from balletal.annotations.table import Annotations, Collector
from balletal.annotations.via import is_via_csv, is_via_project, read_via_csv, read_via_project, video_id_of
from balletal.detections import DetectionStore, scorings
from balletal.errors import InputError
from balletal.labels import LabelSet
from balletal.segments import SEGMENT_COLUMNS
from balletal.video.probe import VIDEO_SUFFIXES

KNOWN = (
    "a VIA 3 CSV export or project, ActivityNet JSON (database or results), a CSV with columns video,start,end,label, "
    "or a Parquet table with columns video_id, start, end, label"
)

# Between the names of a row's tags in CSV.
_BETWEEN = ";"


def read_annotations(path: str, labels: LabelSet | None = None) -> Annotations:
    """Read a file, all CSV or all JSON files below a folder, or a folder of :mod:`balletal.detections`.

    Nothing is dropped silently: a row that cannot be a segment becomes a problem; a segment that looks wrong stays in
    the table and `cleaning_report` tells of it.

    Args:
        labels: names of a finer shipped set are turned into names of this one; None leaves every name as it is.

    Raises:
        InputError: nothing there, or a file that is none of the known formats.
    """
    path = str(path)
    if not files.is_file(path) and scorings(path):
        return _scored(DetectionStore.open(path), Collector(labels))
    found = files.list_files(path, () if files.is_file(path) else (".csv", ".json"))
    endings = {name.lower().rsplit(".", 1)[-1] for name in found}
    if not found:
        raise InputError(path, expected="annotation files (.csv or .json)", found="none")
    if len(found) > 1 and len(endings) > 1:
        # Both forms of one data set in one folder would count every segment twice.
        raise InputError(path, expected="a folder of CSV files or of JSON files", found="both")
    collector = Collector(labels)
    for name in found:
        _read(name, collector)
    return collector.finish()


def _read(where: str, into: Collector) -> None:
    data = files.read_bytes(where)
    if data[:4] == b"PAR1":
        _read_parquet(where, data, into)
        return
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(where, expected=KNOWN, found=f"bytes that are no UTF-8 text ({error})") from None
    if not text.strip():
        raise InputError(where, expected=KNOWN, found="an empty file")
    if text.lstrip()[0] in "{[":
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(where, expected="JSON", found=str(error)) from None
        if is_activitynet(value):
            read_activitynet(where, value, into)
        elif is_via_project(value):
            read_via_project(where, value, into)
        else:
            keys = ", ".join(map(repr, list(value)[:8])) if isinstance(value, dict) else "a list"
            raise InputError(where, expected=KNOWN, found=f"JSON with {keys or 'no keys'}")
    elif is_via_csv(text):
        read_via_csv(where, text, into)
    else:
        _read_csv(where, text, into)


def _read_csv(where: str, text: str, into: Collector) -> None:
    """A table with a header: ``video`` or ``video_id``, ``start``, ``end``, ``label``, perhaps ``score``, ``tags``."""
    reader = csv.reader(io.StringIO(text, newline=""))
    header = [name.strip().lower() for name in next(reader)]
    video = next((name for name in ("video_id", "video") if name in header), None)
    if video is None or not {"start", "end", "label"} <= set(header):
        raise InputError(where, expected=KNOWN, found=f"a first line {','.join(header)[:80]!r}")
    into.scored |= "score" in header
    for line, fields in _lines(where, reader):
        if not any(field.strip() for field in fields):
            continue
        if len(fields) != len(header):
            into.problem(where, line, "malformed", f"expected {len(header)} fields, found {len(fields)}")
            continue
        row = {name: field.strip() for name, field in zip(header, fields, strict=True)}
        if not row[video]:
            into.problem(where, line, "no-video", f"a row without a video: {','.join(fields)}")
            continue
        # The file name of a video is as good as its id.
        video_id = video_id_of(row[video]) if row[video].lower().endswith(VIDEO_SUFFIXES) else row[video]
        more: dict[str, Any] = {"tags": [name for name in row["tags"].split(_BETWEEN) if name]} if "tags" in row else {}
        if "score" not in row:
            into.segment(where, line, video_id, row["start"], row["end"], row["label"], **more)
            continue
        try:
            score = float(row["score"])
        except ValueError:
            into.video(video_id)
            into.problem(where, line, "no-score", f"video {video_id}: score {row['score']!r} is no number")
            continue
        into.segment(where, line, video_id, row["start"], row["end"], row["label"], score=score, **more)


def _lines(where: str, reader: Any) -> Iterator[tuple[int, list[str]]]:
    try:
        for fields in reader:
            yield reader.line_num, fields
    except csv.Error as error:
        raise InputError(f"{where}, line {reader.line_num}", expected="CSV", found=str(error)) from None


def _scored(store: DetectionStore, into: Collector) -> Annotations:
    for video_id in store.videos()["video_id"]:
        into.video(video_id)
    for table in store.tables():
        _take(store.folder, table.to_pandas(), into)
    into.scored = True
    return into.finish()


def _read_parquet(where: str, data: bytes, into: Collector) -> None:
    try:
        table = pq.read_table(io.BytesIO(data)).to_pandas()
    except pa.ArrowException as error:
        raise InputError(where, expected="a Parquet table", found=str(error)) from None
    _take(where, table, into)


def _take(where: str, table: pd.DataFrame, into: Collector) -> None:
    missing = [name for name in SEGMENT_COLUMNS if name not in table]
    if missing:
        raise InputError(where, expected=f"columns {', '.join(SEGMENT_COLUMNS)}", found=f"no {', '.join(missing)}")
    kept = [name for name in (*SEGMENT_COLUMNS, "score", "bundle", "tags") if name in table]
    if "tags" in table:
        table["tags"] = table["tags"].map(list, na_action="ignore")
    into.scored |= "score" in table
    for number, row in enumerate(table[kept].itertuples(index=False, name=None), 1):
        video_id, start, end, label, *more = row
        into.segment(where, number, str(video_id), start, end, label, **dict(zip(kept[4:], more, strict=True)))


def write_csv(uri: str, annotations: Annotations) -> None:
    """Write ``video,start,end,label``, and ``score`` and ``tags`` (names with ; between) where there are any.

    Annotated tags are rows like the steps. What a table of segments cannot hold is not in it: durations, subsets,
    videos without a segment.
    """
    columns = [*SEGMENT_COLUMNS, *(name for name in ("score", "tags") if name in annotations.segments)]
    table = pd.concat([annotations.segments, annotations.tags]) if len(annotations.tags) else annotations.segments
    if "tags" in table:
        table = table.assign(tags=table["tags"].map(_BETWEEN.join, na_action="ignore"))
    order = table.reset_index(drop=True).sort_values(["video_id", "start", "end"], kind="stable")
    files.write_bytes(uri, order[columns].rename(columns={"video_id": "video"}).to_csv(index=False).encode())


def write_webvtt(uri: str, annotations: Annotations) -> int:
    """Write WebVTT subtitles: one ``.vtt`` file for one video, else a folder with ``<video_id>.vtt`` for each.

    Returns:
        How many segments could not be a cue: WebVTT has none that lasts less than a millisecond or ends before 0.

    Raises:
        InputError: a ``.vtt`` file was asked for but there are no or several videos.
    """
    table = annotations.segments
    if len(annotations.tags):
        table = pd.concat([table, annotations.tags], ignore_index=True)
    groups = dict(list(table.groupby("video_id")))
    ids = [str(video_id) for video_id in annotations.videos["video_id"]]
    if uri.lower().endswith(".vtt"):
        if len(ids) != 1:
            raise InputError(
                uri, expected="a folder to write one file a video into", found=f"a file for {len(ids)} videos"
            )
        targets = {ids[0]: uri}
    else:
        # A video id may look like a path; its file may not be elsewhere.
        targets = {video_id: files.join(uri, f"{quote(video_id, safe=' ()[]+,')}.vtt") for video_id in ids}
    left_out = 0
    for video_id, target in targets.items():
        text, skipped = webvtt(groups.get(video_id, table.iloc[:0]))
        left_out += skipped
        files.write_bytes(target, text.encode())
    return left_out


def webvtt(segments: pd.DataFrame) -> tuple[str, int]:
    """The subtitles of one video's segments, and how many of those could not be a cue."""
    cues = ["WEBVTT\n"]
    for row in segments.sort_values(["start", "end"], kind="stable").to_dict("records"):
        start, end = (max(0, round(1000 * float(row[key]))) for key in ("start", "end"))
        if end <= start:
            continue
        text = str(row["label"])
        if isinstance(row.get("tags"), list) and row["tags"]:
            text += f" ({', '.join(row['tags'])})"
        text = " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())
        if not pd.isna(row.get("score")):
            text += f" {float(row['score']):.0%}"
        cues.append(f"{len(cues)}\n{_clock(start)} --> {_clock(end)}\n{text}\n")
    return "\n".join(cues), len(segments) - (len(cues) - 1)


def _clock(milliseconds: int) -> str:
    seconds, thousandth = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{thousandth:03d}"
