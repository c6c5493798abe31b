"""Segments for other programs: SRT subtitles, ELAN, OpenTimelineIO (editors), Label Studio.

Sources: SubRip as FFmpeg reads it; EAF 3.0 (https://www.mpi.nl/tools/elan/EAF_Annotation_Format_3.0_and_ELAN.pdf);
https://opentimelineio.readthedocs.io (``otio-serialized-schema``); https://labelstud.io/guide/export (JSON tasks) and
https://labelstud.io/tags/timelinelabels.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

import pandas as pd

from balletal import files
from balletal.annotations.formats import webvtt
from balletal.annotations.table import Annotations
from balletal.errors import InputError

LABEL_STUDIO_FPS = 25.0
"""Label Studio counts frames; this many a second where the video's rate is not known. Tasks say it as ``$fps``."""

_MILLISECONDS = 1000.0  # the rate of an OTIO clock where the video's is not known
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_exchange(uri: str, annotations: Annotations, to: str) -> None:
    """Write ``label-studio`` as one file; a format of :data:`DOCUMENTS` as one for one video, else a folder with a file
    for each.

    Raises:
        InputError: another format; a name with the format's suffix, but no or several videos.
    """
    if to == "label-studio":
        files.write_bytes(uri, label_studio(annotations))
        return
    documents = video_documents(annotations, to)
    if not uri.lower().endswith(f".{to}"):
        for name, document in documents.items():
            files.write_bytes(files.join(uri, name), document)
    elif len(documents) == 1:
        files.write_bytes(uri, next(iter(documents.values())))
    else:
        expected = "a folder to write one file a video into"
        raise InputError(uri, expected=expected, found=f"a file for {len(documents)} videos")


def video_documents(annotations: Annotations, to: str) -> dict[str, bytes]:
    """The documents of all videos in a format of :data:`DOCUMENTS`, by file name: the video's id with the suffix.

    Raises:
        InputError: another format.
    """
    if to not in DOCUMENTS:
        raise InputError(to, expected=", ".join(DOCUMENTS), found="another format")
    table = annotations.segments.sort_values(["start", "end"], kind="stable")
    groups = dict(list(table.groupby("video_id")))
    rows = annotations.videos.to_dict("records")
    found: dict[str, bytes] = {}
    for row in rows:
        video_id, fps, duration = str(row["video_id"]), _known(row["fps"]), _known(row["duration"])
        # A video id may look like a path; its file may not be elsewhere.
        name = f"{quote(video_id, safe=' ()[]+,')}.{to}"
        found[name] = DOCUMENTS[to](groups.get(video_id, table.iloc[:0]), video_id, fps, duration).encode()
    return found


def srt(segments: pd.DataFrame, video_id: str = "", fps: float | None = None, duration: float | None = None) -> str:
    """SubRip subtitles of one video's segments; those of less than a millisecond are left out."""
    cues: list[str] = []
    for row, start, end in _rows(segments):
        cues.append(f"{len(cues) + 1}\n{_clock(start)} --> {_clock(end)}\n{_title(row)}\n")
    return "\n".join(cues)


def eaf(segments: pd.DataFrame, video_id: str = "", fps: float | None = None, duration: float | None = None) -> str:
    """An ELAN document: a tier for each label, and further ones where its segments overlap, which no tier may hold."""
    tiers: dict[str, list[tuple[int, int, str]]] = {}
    for row, start, end in _rows(segments):
        label, number = _NO_XML.sub("\ufffd", str(row["label"])), 1
        while (tier := label if number == 1 else f"{label} ({number})") in tiers and tiers[tier][-1][1] > start:
            number += 1
        tiers.setdefault(tier, []).append((start, end, _NO_XML.sub("\ufffd", _title(row))))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    root = ET.Element("ANNOTATION_DOCUMENT", AUTHOR="balletal", DATE=now, FORMAT="3.0", VERSION="3.0")
    ET.SubElement(root, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    order = ET.SubElement(root, "TIME_ORDER")
    times = sorted({time for tier in tiers.values() for start, end, _ in tier for time in (start, end)})
    slots = {time: f"ts{number}" for number, time in enumerate(times, 1)}
    for time, slot in slots.items():
        ET.SubElement(order, "TIME_SLOT", TIME_SLOT_ID=slot, TIME_VALUE=str(time))
    number = 0
    for tier, items in tiers.items():
        element = ET.SubElement(root, "TIER", LINGUISTIC_TYPE_REF="step", TIER_ID=tier)
        for start, end, title in items:
            number += 1
            ids = {"ANNOTATION_ID": f"a{number}", "TIME_SLOT_REF1": slots[start], "TIME_SLOT_REF2": slots[end]}
            item = ET.SubElement(ET.SubElement(element, "ANNOTATION"), "ALIGNABLE_ANNOTATION", ids)
            ET.SubElement(item, "ANNOTATION_VALUE").text = title
    ET.SubElement(root, "LINGUISTIC_TYPE", GRAPHIC_REFERENCES="false", LINGUISTIC_TYPE_ID="step", TIME_ALIGNABLE="true")
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def otio(segments: pd.DataFrame, video_id: str = "", fps: float | None = None, duration: float | None = None) -> str:
    """An OpenTimelineIO timeline: one clip, the video, with a marker for each segment. Markers may overlap."""
    rate = fps or _MILLISECONDS
    length = max([duration or 0.0, *segments["end"]])

    def span(start: float, seconds: float) -> dict[str, Any]:
        times = {"start_time": start, "duration": seconds}
        clock = {name: {"OTIO_SCHEMA": "RationalTime.1", "rate": rate, "value": t * rate} for name, t in times.items()}
        return {"OTIO_SCHEMA": "TimeRange.1", **clock}

    def item(schema: str, name: str, **more: Any) -> dict[str, Any]:
        about = {"metadata": {}, "name": name, "effects": [], "markers": [], "enabled": True, "source_range": None}
        return {"OTIO_SCHEMA": schema, **about, **more}

    markers = [
        {
            "OTIO_SCHEMA": "Marker.2",
            "metadata": {"balletal": {"label": str(row["label"]), "score": _known(row.get("score"))}},
            "name": str(row["label"]),
            "color": "GREEN",
            "comment": _title(row),
            "marked_range": span(float(row["start"]), float(row["end"]) - float(row["start"])),
        }
        for row in segments.to_dict("records")
    ]
    reference: dict[str, Any] = {
        "OTIO_SCHEMA": "MissingReference.1",
        "metadata": {},
        "name": video_id,
        "available_range": span(0, length),
    }
    reference |= {"available_image_bounds": None}
    media = {"media_references": {"DEFAULT_MEDIA": reference}, "active_media_reference_key": "DEFAULT_MEDIA"}
    clip = item("Clip.2", video_id, source_range=span(0, length), markers=markers, **media)
    track = item("Track.1", "video", kind="Video", children=[clip])
    stack = item("Stack.1", "tracks", children=[track])
    timeline: dict[str, Any] = {
        "OTIO_SCHEMA": "Timeline.1",
        "metadata": {},
        "name": video_id,
        "global_start_time": None,
    }
    return json.dumps(timeline | {"tracks": stack}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


DOCUMENTS: dict[str, Callable[[pd.DataFrame, str, float | None, float | None], str]] = {
    "vtt": lambda segments, video_id, fps, duration: webvtt(segments)[0],
    "srt": srt,
    "eaf": eaf,
    "otio": otio,
}
"""Formats that have a document for each video, from its segments, id, frames a second and seconds, None if unknown."""


def label_studio(annotations: Annotations) -> bytes:
    """Label Studio tasks, one a video; the segments are predictions of timeline labels (frames from 1, both ends in).

    They fit the labelling configuration
    ``<View><TimelineLabels name="steps" toName="video">...</TimelineLabels>
    <Video name="video" value="$video" frameRate="$fps"/></View>``.
    """
    groups = dict(list(annotations.segments.groupby("video_id")))
    tasks = []
    for row in annotations.videos.to_dict("records"):
        video_id, fps = str(row["video_id"]), _known(row["fps"]) or LABEL_STUDIO_FPS
        rows = groups[video_id].to_dict("records") if video_id in groups else []
        results = [_timeline_label(f"{number}", one, fps) for number, one in enumerate(rows, 1)]
        scores = [result["score"] for result in results if "score" in result]
        prediction: dict[str, Any] = {"model_version": "balletal", "result": results}
        if scores:
            prediction["score"] = sum(scores) / len(scores)
        tasks.append({"data": {"video": video_id, "fps": fps}, "predictions": [prediction]})
    return (json.dumps(tasks, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _timeline_label(name: str, row: dict[Any, Any], fps: float) -> dict[str, Any]:
    start = max(1, math.floor(float(row["start"]) * fps + 1e-6) + 1)
    end = max(start, math.ceil(float(row["end"]) * fps - 1e-6))
    value = {"ranges": [{"start": start, "end": end}], "timelinelabels": [str(row["label"])]}
    about = {"id": name, "type": "timelinelabels", "from_name": "steps", "to_name": "video", "value": value}
    score = _known(row.get("score"))
    return about if score is None else about | {"score": score}


def _rows(segments: pd.DataFrame) -> Iterator[tuple[dict[Any, Any], int, int]]:
    """Segments that last, with their milliseconds, by start."""
    for row in segments.sort_values(["start", "end"], kind="stable").to_dict("records"):
        start, end = (max(0, round(1000 * float(row[key]))) for key in ("start", "end"))
        if start < end:
            yield row, start, end


def _title(row: dict[Any, Any]) -> str:
    label = " ".join(str(row["label"]).split())
    return label if _known(row.get("score")) is None else f"{label} {float(row['score']):.0%}"


def _clock(milliseconds: int) -> str:
    seconds, thousandth = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d},{thousandth:03d}"


def _known(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)
