"""What is wrong with annotations, and the part of them that a model can be trained on."""

import numpy as np
import pandas as pd

from balletal.annotations.table import Annotations, Problem, shipped_label_sets
from balletal.labels import LabelSet

# Two segments that share a boundary may overlap by a rounding error.
_SLACK = 1e-6


def cleaning_report(annotations: Annotations, labels: LabelSet | None = None) -> list[Problem]:
    """Every problem: those of reading, then those of segments and tags, by video and time.

    Kinds found here: ``unknown-label``, ``zero-length``, ``reversed``, ``out-of-range``, ``beyond-duration`` (also
    before 0), ``duplicate``, ``overlap`` (of steps; tags run beside steps).

    Args:
        labels: the names that are known; None: those of `closest_label_set`, or any name when there is no such set.
    """
    labels = labels or closest_label_set(annotations)
    found: list[Problem] = []
    for table, known in ((annotations.segments, labels), (annotations.tags, None)):
        rows = table.assign(row=np.arange(len(table))).sort_values(["video_id", "start", "end"], kind="stable")
        kinds = _kinds(rows, annotations, known)
        duplicate = rows.duplicated(["video_id", "start", "end", "label"]).to_numpy()
        overlap = _overlaps(rows) if table is annotations.segments else np.zeros(len(rows))
        columns = (rows[name] for name in ("video_id", "start", "end", "label", "row"))
        for i, (video_id, start, end, label, row) in enumerate(zip(*columns, strict=True)):
            said = f"{label} {start:g} - {end:g} s"
            found += [Problem(str(video_id), int(row), kind, said) for kind in sorted(kinds) if kinds[kind][i]]
            if duplicate[i]:
                found.append(Problem(str(video_id), int(row), "duplicate", said))
            elif overlap[i] > _SLACK:
                message = f"{said}: begins {overlap[i]:.2g} s before the end of an earlier one"
                found.append(Problem(str(video_id), int(row), "overlap", message))
    return [*annotations.problems, *found]


def usable_segments(annotations: Annotations, labels: LabelSet) -> tuple[pd.DataFrame, dict[str, int]]:
    """The segments that a model can learn: of a known label, longer than nothing, with a part inside their video.

    Returns:
        segment table (times as annotated, not clipped); how many were left out for what, {kind: n}.
    """
    kinds = _kinds(annotations.segments, annotations, labels)
    dropped: dict[str, int] = {}
    usable = np.ones(len(annotations.segments), dtype=bool)
    for kind in ("unknown-label", "reversed", "zero-length", "out-of-range"):
        new = kinds[kind] & usable
        usable &= ~new
        if new.any():
            dropped[kind] = int(new.sum())
    return annotations.segments[usable].reset_index(drop=True), dropped


def closest_label_set(annotations: Annotations) -> LabelSet | None:
    """The shipped set that has the most of the labels in the table, and at least half of them; None otherwise."""
    names = set(annotations.segments["label"])
    best = max(shipped_label_sets(), key=lambda s: len(names & set(s.labels)))
    return best if names and 2 * len(names & set(best.labels)) >= len(names) else None


def _kinds(table: pd.DataFrame, annotations: Annotations, labels: LabelSet | None) -> dict[str, np.ndarray]:
    """(N,) bool for each kind of wrong segment, in the order of ``table``."""
    start, end = table["start"].to_numpy(np.float64), table["end"].to_numpy(np.float64)
    # A comparison with NaN, an unknown duration, is false.
    duration = table["video_id"].map(annotations.durations).to_numpy(np.float64)
    outside = (start >= duration) | (end < 0) | ((end == 0) & (start < 0))
    unknown = ~table["label"].isin(labels.labels).to_numpy() if labels else np.zeros(len(table), dtype=bool)
    return {
        "unknown-label": unknown,
        "reversed": end < start,
        "zero-length": end == start,
        "out-of-range": outside,
        "beyond-duration": ((end > duration) | (start < 0)) & ~outside,
    }


def _overlaps(rows: pd.DataFrame) -> np.ndarray:
    """(N,) seconds that each segment, sorted by video and start, shares with the earlier one that ends last."""
    video = rows["video_id"].to_numpy()
    start, end = rows["start"].to_numpy(np.float64), rows["end"].to_numpy(np.float64)
    latest = rows.groupby("video_id")["end"].cummax().to_numpy(np.float64)
    overlap = np.zeros(len(rows))
    if len(rows) > 1:
        shared = np.minimum(latest[:-1], end[1:]) - start[1:]
        overlap[1:] = np.where(video[1:] == video[:-1], shared.clip(min=0.0), 0.0)
    return overlap
