"""VIA 3 (VGG Image Annotator): its CSV export, as AnnChor published it, and its JSON projects."""

import csv
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

import pandas as pd

from balletal import files
from balletal.annotations.splits import variation_of
from balletal.annotations.table import Annotations, Collector
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
    steps = _options()
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


def _options() -> dict[str, str]:
    """AnnChor's option id of a step, as written in a CSV export -> its fine name."""
    fine = LabelSet.load("annchor-fine")
    return {str(i): name for i, name in enumerate((*fine.labels, *fine.tags))}


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


def write_via_csv(uri: str, annotations: Annotations) -> None:
    """Write CSV exports as AnnChor's: a ``.csv`` file of all videos, else a folder with a file for each variation.

    Each video has a row without times that says whether one dancer is seen, where that is known, and a row for each
    step and tag: AnnChor's option id, or the label itself where it is none of AnnChor's fine names. What is written
    reads back the same. What a CSV export cannot hold is not in it: durations, frame rates, subsets, scores, and videos
    of which nothing else is known.

    Raises:
        InputError: a label that would read back as another one, a video id that no file can have, or a folder to write
            and no video.
    """
    rows = pd.concat([annotations.segments, annotations.tags]) if len(annotations.tags) else annotations.segments
    by_video = dict(list(rows.sort_values(["start", "end"], kind="stable").groupby("video_id")))
    single = uri.lower().endswith(".csv")
    targets: dict[str, list[str]] = {uri: [_CSV_HEAD]} if single else {}
    for video in annotations.videos.to_dict("records"):
        video_id = str(video["video_id"])
        name = re.sub(r"^\.", "%2E", quote(variation_of(video_id), safe=" ()[]+,"))  # no hidden file: none reads it
        target = uri if single else files.join(uri, f"{name}.csv")
        written = _csv_rows(video_id, video["solo"], by_video.get(video_id, rows[:0]))
        targets.setdefault(target, [_CSV_HEAD]).extend(written)
    if not targets:
        raise InputError(uri, expected="a video to write a file of, or the name of a .csv file", found="none")
    for target, lines in targets.items():
        files.write_bytes(target, "".join(lines).encode())


_CSV_HEAD = (
    "# Exported using VGG Image Annotator (http://www.robots.ox.ac.uk/~vgg/software/via)\n"
    "# CSV_HEADER = metadata_id,file_list,temporal_segment_start,temporal_segment_end,metadata\n"
)


def _csv_rows(video_id: str, solo: bool | None, segments: pd.DataFrame) -> list[str]:
    """The lines of one video."""
    source = f"file:///{quote(variation_of(video_id), safe='')}/{quote(video_id, safe='')}.mp4"
    if video_id_of(source) != video_id:
        raise InputError(f"video {video_id!r}", expected="an id that a file name can hold", found="one with a slash")
    names = _options()
    ids = {name: option for option, name in names.items()}
    rows: list[tuple] = [] if solo is None else [("", "", {SOLO_ATTRIBUTE: "0" if solo else "1"})]
    for start, end, label in segments[["start", "end", "label"]].itertuples(index=False, name=None):
        if label in names:
            raise InputError(
                f"label {label!r}", expected="none that AnnChor's files use as a number", found=names[label]
            )
        rows.append((start, end, {STEP_ATTRIBUTE: ids.get(label, label)}))
    lines = []
    for number, (start, end, values) in enumerate(rows):
        # VIA draws its ids at random; these are as unlike one another, and the same every time.
        row_id = "1_" + hashlib.sha256(f"{video_id}:{number}".encode()).hexdigest()[:8]
        file_list, metadata = (json.dumps(v, ensure_ascii=False, separators=(",", ":")) for v in ([source], values))
        lines.append(f"{_quoted(row_id)},{_quoted(file_list)},{start},{end},{_quoted(metadata)}\n")
    return lines


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
