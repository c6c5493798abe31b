"""ActivityNet-like JSON: ground truth (``database``), as of THUMOS and AnnChor1000-TD, and results (``results``)."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from balletal import files
from balletal.annotations.table import Annotations, Collector
from balletal.labels import LabelSet

_FRAMES = "segment(frames)"


def is_activitynet(data: object) -> bool:
    """Whether a JSON value is an ActivityNet ground truth or result file."""
    return isinstance(data, dict) and any(isinstance(data.get(key), dict) for key in ("database", "results"))


def read_activitynet(where: str, data: Mapping[str, Any], into: Collector) -> None:
    """Take the entries of a ground truth or a result file; rows are counted from 1 in the order of the file."""
    row = 0
    taxonomy = data.get("taxonomy")
    for node in taxonomy if isinstance(taxonomy, list) else []:
        if isinstance(node, dict) and isinstance(node.get("nodeName"), str):
            into.taxonomy[node["nodeName"]] = None
    if isinstance(data.get("database"), dict):
        for video_id, entry in data["database"].items():
            into.video(video_id)
            # Tags stand apart from the steps, where a program that knows nothing of them passes over them.
            lists: list = [entry.get(key, []) for key in ("annotations", "tags")] if isinstance(entry, dict) else [None]
            if not all(isinstance(items, list) for items in lists):
                row += 1
                into.problem(
                    where, row, "malformed", f"video {video_id}: expected an object with a list of annotations"
                )
                continue
            fps = _positive(where, row, video_id, entry, "fps", into)
            duration = _positive(where, row, video_id, entry, "duration", into)
            subset, solo = entry.get("subset"), entry.get("solo")
            solo = solo if isinstance(solo, bool) else None
            into.video(video_id, duration=duration, fps=fps, subset=None if subset is None else str(subset), solo=solo)
            for item in itertools.chain(*lists):
                row += 1
                _take(where, row, video_id, item, fps, into)
        return
    into.scored = True
    for video_id, items in data["results"].items():
        into.video(video_id)
        if not isinstance(items, list):
            row += 1
            into.problem(where, row, "malformed", f"video {video_id}: expected a list of detections")
            continue
        for item in items:
            row += 1
            if isinstance(item, dict) and not isinstance(item.get("score"), int | float):
                into.problem(where, row, "no-score", f"video {video_id}: {item}")
            else:
                _take(where, row, video_id, item, None, into)


def _positive(where: str, row: int, video_id: str, entry: Mapping, key: str, into: Collector) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, int | float) and np.isfinite(value) and value > 0:
        return float(value)
    into.problem(where, row, "malformed", f"video {video_id}: {key} {value!r} is no positive number")
    return None


def _take(where: str, row: int, video_id: str, item: object, fps: float | None, into: Collector) -> None:
    if not isinstance(item, dict):
        into.problem(where, row, "malformed", f"video {video_id}: expected an object, found {item!r}")
        return
    times = item.get("segment")
    if times is None and fps is not None and isinstance(item.get(_FRAMES), list):
        times = [n / fps if isinstance(n, int | float) else n for n in item[_FRAMES]]
    if times is None or times == []:
        into.problem(where, row, "no-time", f"video {video_id}: {item.get('label')} without times")
        return
    if not isinstance(times, list) or len(times) != 2:
        into.problem(where, row, "bad-time", f"video {video_id}: {item.get('label')} at {times!r}")
        return
    more: dict[str, Any] = {key: item[key] for key in ("label_id", "score") if isinstance(item.get(key), int | float)}
    if isinstance(item.get("tags"), list):
        more["tags"] = [str(name) for name in item["tags"]]
    start, end = times
    into.segment(where, row, video_id, start, end, item.get("label"), **more)


def write_activitynet(uri: str, annotations: Annotations, labels: LabelSet | None = None) -> None:
    """Write a ground truth file with each video's duration, fps and subset, each segment's ``label_id``, and frame
    numbers where the frame rate is known (THUMOS's form).

    Args:
        labels: gives the ids; without it they are those that were read.
    """
    steps, tags = _by_video(annotations.segments), _by_video(annotations.tags)
    database: dict[str, dict] = {}
    for video in annotations.videos.to_dict("records"):
        video_id, fps = str(video["video_id"]), video["fps"]
        entry: dict[str, Any] = {key: video[key] for key in ("subset", "duration", "fps", "solo") if _known(video[key])}
        entry["annotations"] = [_item(row, fps, labels) for row in steps.get(video_id, [])]
        if video_id in tags:
            entry["tags"] = [_item(row, fps, labels) for row in tags[video_id]]
        database[video_id] = entry
    names = labels.labels if labels else annotations.taxonomy or sorted(set(annotations.segments["label"]))
    taxonomy = [{"nodeId": i, "nodeName": name, "parentId": None} for i, name in enumerate(names)]
    files.write_json(uri, {"version": "balletal-1", "taxonomy": taxonomy, "database": database})


def write_results(
    uri: str, detections: pd.DataFrame, *, video_ids: Iterable[str] = (), external_data: Mapping[str, Any] | None = None
) -> None:
    """Write a result file, each video's detections by descending score.

    Args:
        detections: segment table with ``score``, and ``tags`` (lists of names) where the model tells them.
        video_ids: videos that have an entry even when nothing was detected in them.
        external_data: what else was used, such as ``{"bundle": digest}``.
    """
    results: dict[str, list] = {video_id: [] for video_id in video_ids}
    ordered = detections.sort_values("score", ascending=False, kind="stable")
    for video_id, rows in _by_video(ordered).items():
        results[video_id] = [_item(row, None, None) for row in rows]
    data = {
        "version": "balletal-1",
        "results": dict(sorted(results.items())),
        "external_data": dict(external_data or {}),
    }
    files.write_json(uri, data)


def _item(row: Mapping[str, Any], fps: float | None, labels: LabelSet | None) -> dict[str, Any]:
    item: dict[str, Any] = {"label": row["label"], "segment": [row["start"], row["end"]]}
    if _known(fps) and fps:
        item[_FRAMES] = [round(second * fps, 4) for second in item["segment"]]
    label_id = labels.index.get(row["label"]) if labels else row.get("label_id")
    if _known(label_id):
        item["label_id"] = int(label_id)  # type: ignore[arg-type]
    if _known(row.get("score")):
        item["score"] = float(row["score"])
    if isinstance(row.get("tags"), list | np.ndarray):
        item["tags"] = list(row["tags"])
    return item


def _by_video(table: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_dict("records"):
        found.setdefault(str(row["video_id"]), []).append({str(key): value for key, value in row.items()})
    return found


def _known(value: Any) -> bool:
    return not pd.isna(value)
