"""VIA 3 (VGG Image Annotator): its CSV export, as AnnChor published it, and its JSON projects."""

import csv
import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

from balletal.annotations.table import Collector
from balletal.errors import InputError
from balletal.labels import LabelSet

# AnnChor's attributes. A CSV export holds option ids alone, so their names must be known from elsewhere.
STEP_ATTRIBUTE = "BalletSteps"
SOLO_ATTRIBUTE = "OnlyOneDancer?"
_SOLO = {"0": True, "1": False, "Yes": True, "No": False}


def video_id_of(path: str) -> str:
    """The video id of a media path or URL: its file name without the ending, Windows paths too.

    >>> video_id_of(r"file:///C:\\Annotation\\ACM\\ACM0000.mp4")
    'ACM0000'
    """
    return PurePosixPath(unquote(path).replace("\\", "/")).stem


def is_via_csv(text: str) -> bool:
    """Whether a text is VIA 3's CSV export."""
    head = text[:400].lstrip('"')
    return head.startswith("#") and ("VGG Image Annotator" in head or "CSV_HEADER" in head)


def read_via_csv(where: str, text: str, into: Collector) -> None:
    """Take the rows of one CSV export.

    Some exports went through a spreadsheet that wrapped each row in one more layer of quotes: such a row is one field.
    """
    columns = ["metadata_id", "file_list", "temporal_segment_start", "temporal_segment_end", "metadata"]
    fine = LabelSet.load("annchor-fine")
    steps = {str(i): name for i, name in enumerate((*fine.labels, *fine.tags))}
    for line, content in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if header := re.search(r"CSV_HEADER\s*=\s*([\w,]+)", content):
            columns = header[1].split(",")
        if not content.strip() or content.lstrip('"').startswith("#"):
            continue
        try:
            fields = next(csv.reader([content]))
            if len(fields) == 1 and len(columns) > 1:
                fields = next(csv.reader(fields))
            row = dict(zip(columns, fields, strict=True))
            sources, values, times = json.loads(row["file_list"]), json.loads(row["metadata"]), _csv_times(row)
        except (csv.Error, ValueError, TypeError, KeyError) as error:
            into.problem(where, line, "malformed", f"{type(error).__name__}: {error}")
            continue
        if not (isinstance(sources, list) and sources and isinstance(values, dict)):
            into.problem(where, line, "no-video" if not sources else "malformed", f"files {sources}, metadata {values}")
            continue
        named = {name: steps.get(str(v), str(v)) if name == STEP_ATTRIBUTE else str(v) for name, v in values.items()}
        _take(where, line, video_id_of(str(sources[0])), times, named, into)


def _csv_times(row: Mapping[str, str]) -> list:
    """Start and end of a row, "" where it has none; newer exports hold them as one JSON list."""
    if "temporal_coordinates" in row:
        return list(json.loads(row["temporal_coordinates"] or "[]"))
    times = [row["temporal_segment_start"], row["temporal_segment_end"]]
    return times if any(times) else []


def is_via_project(data: object) -> bool:
    """Whether a JSON value is a VIA 3 project."""
    return isinstance(data, dict) and {"project", "attribute", "file", "metadata", "view"} <= set(data)


def read_via_project(where: str, data: Mapping[str, Any], into: Collector) -> None:
    """Take the metadata of a project; rows are counted from 1 in the order of the file.

    Raises:
        InputError: its tables are not of VIA's form.
    """
    try:
        names = {key: attribute["aname"] for key, attribute in data["attribute"].items()}
        options = {key: attribute.get("options") or {} for key, attribute in data["attribute"].items()}
        sources = {
            view: video_id_of(str(data["file"][str(content["fid_list"][0])]["fname"]))
            for view, content in data["view"].items()
            if content["fid_list"]
        }
        rows = list(data["metadata"].values())
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(where, expected="a VIA 3 project", found=f"{type(error).__name__}: {error}") from None
    for video_id in sources.values():
        into.video(video_id)
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not isinstance(row.get("av"), dict) or not isinstance(row.get("z"), list):
            into.problem(where, number, "malformed", f"expected times z and values av, found {row}")
        elif str(row.get("vid")) not in sources:
            into.problem(where, number, "no-video", f"view {row.get('vid')!r} shows no file of the project")
        else:
            values = {
                names.get(key, key): str(options.get(key, {}).get(str(value), value))
                for key, value in row["av"].items()
            }
            _take(where, number, sources[str(row["vid"])], row["z"], values, into)


def _take(where: str, row: int, video_id: str, times: list, values: dict[str, str], into: Collector) -> None:
    """One row of VIA: of the whole video where it has no times, else a segment."""
    solo = _SOLO.get(values.pop(SOLO_ATTRIBUTE, ""))
    into.video(video_id, solo=solo)
    if not values:
        if solo is None:
            into.problem(where, row, "empty", f"video {video_id}: a row without any value")
        elif times:
            into.problem(where, row, "no-label", f"video {video_id}: {times} s has no label")
        return
    # AnnChor's attribute, else whatever the project calls it.
    label = values.get(STEP_ATTRIBUTE) or next(iter(values.values()))
    if len(times) > 2:
        into.problem(where, row, "bad-time", f"video {video_id}: {label} at {times}")
        return
    start, end = [*times, "", ""][:2]
    if start == "" or end == "":
        into.problem(where, row, "no-time", f"video {video_id}: {label} without {'times' if start == '' else 'an end'}")
        return
    into.segment(where, row, video_id, start, end, label)
