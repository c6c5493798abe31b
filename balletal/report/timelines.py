"""What the timelines show: for each video the annotated segments and, of each model, the detections worth drawing."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from balletal.metrics.detection import match_detections
from balletal.metrics.operating import best_f1
from balletal.report.runs import Results

TIOU = 0.5


@dataclass(frozen=True)
class Shown:
    """The detections of one model that a reader gets to see.

    Attributes:
        threshold: the score from which on they are drawn.
        f1, precision, recall: of exactly these, at tIoU 0.5 with the right class.
        detections: table with a bool column ``hit``, by descending score.
    """

    threshold: float
    f1: float
    precision: float
    recall: float
    detections: pd.DataFrame


def choose_shown(ground_truth: pd.DataFrame, detections: pd.DataFrame) -> Shown:
    """Keep the detections above the one score threshold whose F1 on the whole subset is the best.

    Detectors keep up to hundreds of low-scored segments a video, because mAP rewards recall; drawn together they hide
    the answer. When no detection hits anything, as many as there are annotated segments are kept.
    """
    # A stable sort, so that equal scores keep their order in the file.
    ranked = detections.sort_values("score", ascending=False, kind="stable").reset_index(drop=True)
    ranked["hit"] = match_detections(ground_truth, ranked, np.array([TIOU]))[0] >= 0
    point = best_f1(ground_truth, ranked, TIOU)
    return Shown(point.threshold, point.f1, point.precision, point.recall, ranked[: point.kept])


def timeline_data(
    results: Results, shown: dict[str, Shown], labels: list[str], videos: int | None = None
) -> dict[str, Any]:
    """The JSON that the page's script draws from.

    Args:
        shown: run name -> its chosen detections.
        labels: every class, in the order of their colours.
        videos: draw at most so many, those with the most annotated segments; None draws all.

    Returns:
        ``{labels, runs, videos: [{id, duration, f1 (best run's), truth: [[label, start, end]],
        runs: [[[label, start, end, score]]]}]}``: labels as positions, seconds to the millisecond.
    """
    index = {label: i for i, label in enumerate(labels)}
    counts = results.ground_truth["video_id"].value_counts()
    ids = sorted({*counts.index, *results.durations})
    if videos is not None:
        ids = sorted(sorted(ids, key=lambda video: -counts.get(video, 0))[:videos])
    truth = dict(list(results.ground_truth.groupby("video_id")))
    found = [dict(list(shown[run.name].detections.groupby("video_id"))) for run in results.runs]

    def rows(table: pd.DataFrame | None, columns: list[str]) -> list[list[float]]:
        if table is None:
            return []
        ordered = table.sort_values("start", kind="stable")
        return [
            [index[label], *(round(float(v), 3) for v in values)]
            for label, values in zip(ordered["label"], ordered[columns].to_numpy(), strict=True)
        ]

    out = []
    for video in ids:
        mine = [tables.get(video) for tables in found]
        ends = [table["end"].max() for table in (truth.get(video), *mine) if table is not None and len(table)]
        annotated = int(counts.get(video, 0))
        out.append(
            {
                "id": video,
                "duration": round(float(max([results.durations.get(video, 0.0), *ends])), 3),
                "f1": [_f1(table, annotated) for table in mine],
                "truth": rows(truth.get(video), ["start", "end"]),
                "runs": [rows(table, ["start", "end", "score"]) for table in mine],
            }
        )
    return {"labels": labels, "runs": [run.name for run in results.runs], "videos": out}


def _f1(detections: pd.DataFrame | None, annotated: int) -> float | None:
    """F1 of the drawn detections of one video; None where there is nothing to find and nothing was said."""
    predicted = 0 if detections is None else len(detections)
    if predicted + annotated == 0:
        return None
    hits = 0 if detections is None else int(detections["hit"].sum())
    return round(2 * hits / (predicted + annotated), 3)
