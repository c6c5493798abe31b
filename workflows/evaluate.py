"""How good detections are against ground truth: mAP, AR@AN. `python -m workflows.evaluate`."""

from dataclasses import replace
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from balletal.annotations import Annotations, read_annotations
from balletal.errors import InputError
from balletal.labels import LabelSet
from balletal.metrics import boundary_errors, evaluate_detections, frame_labels, frame_metrics
from workflows.console import print_json, run, say

_MOST_THRESHOLDS = 100


def evaluate(
    ground_truth: str,
    detections: str,
    tiou: list[float],
    subset: str | None = None,
    labels: str | None = None,
    frame_score: float = 0.5,
) -> dict:
    """`evaluate_detections` of two files, with ``boundaries`` and, where all durations are known, ``frames``.

    Args:
        subset: the videos that count. Detections in another subset's videos are left out; those in videos that the
            ground truth does not have are false positives.
        labels: label set by name; finer names become its own.
        frame_score: a frame gets the class of the best detection over it of at least this score, else background.

    Raises:
        InputError: files that cannot be read, no such subset, detections without scores, unknown labels.
    """
    label_set = LabelSet.load(labels) if labels else None
    truth, found = read_annotations(ground_truth, label_set), read_annotations(detections, label_set)
    for name, annotations in ((ground_truth, truth), (detections, found)):
        _tell_problems(name, annotations)
    if "score" not in found.segments:
        raise InputError(detections, expected="detections with scores", found="segments without")
    chosen = truth.select(subset=subset)
    if subset is not None and chosen.segments.empty:
        raise InputError(ground_truth, expected=f"a segment in subset {subset!r}", found="none")
    elsewhere = set(truth.videos["video_id"]) - set(chosen.videos["video_id"])
    found = replace(found, segments=found.segments[~found.segments["video_id"].isin(elsewhere)])
    # A class may be known without a segment in this subset: from other subsets, the file's taxonomy or the label set.
    known = {*truth.segments["label"], *truth.taxonomy, *(label_set.labels if label_set else ())}
    result = evaluate_detections(chosen.segments, found.segments, tiou, labels=known)
    durations = {str(v): chosen.durations.get(v) for v in chosen.videos["video_id"]}
    frames = None
    if durations and all(durations.values()):
        classes = label_set or LabelSet("ground truth", tuple(sorted(known)))
        sure = found.segments[found.segments["score"] >= frame_score]
        frames = frame_metrics(_frames(sure, chosen, classes), _frames(chosen.segments, chosen, classes))
    boundaries = boundary_errors(chosen.segments, found.segments)
    return result | {"subset": subset, "boundaries": boundaries, "frames": frames}


def _frames(table: pd.DataFrame, annotations: Annotations, labels: LabelSet) -> list[NDArray[np.int64]]:
    """Frame classes of every annotated video by the segments of ``table``."""
    by_video = dict(list(table.groupby("video_id")))
    return [
        frame_labels(by_video.get(video_id, table.iloc[:0]), labels, duration)
        for video_id, duration in annotations.durations.items()
    ]


def _tell_problems(name: str, annotations: Annotations) -> None:
    if annotations.problems:
        first = annotations.problems[0]
        say(f"{name}: {len(annotations.problems)} rows left out, the first: row {first.row}, {first.message}")


def parse_tiou(text: str) -> list[float]:
    """Thresholds from ``start:stop:step``, the stop included, or from ``a,b,c``.

    >>> parse_tiou("0.3:0.7:0.1")
    [0.3, 0.4, 0.5, 0.6, 0.7]
    """
    try:
        values = [float(part) for part in text.replace(":", ",").split(",")]
        if ":" in text:
            start, stop, step = values
            # Rounded, so that 0.6 is 0.6 and not 0.6000000000000001.
            count = int(np.floor((stop - start) / step + 1e-6)) + 1
            values = [round(start + i * step, 9) for i in range(count)] if count <= _MOST_THRESHOLDS else []
    except (ValueError, ZeroDivisionError, OverflowError):
        values = []
    if not values or not all(0 < value <= 1 for value in values):
        expected = f"start:stop:step or a list of values in (0, 1], at most {_MOST_THRESHOLDS}"
        raise typer.BadParameter(f"{text!r} is not {expected}", param_hint="--tiou")
    return values


def main(
    ground_truth: Annotated[str, typer.Option(help="Annotations: any format that `annotations` reads.")],
    detections: Annotated[
        str, typer.Option(help="ActivityNet JSON, detections.parquet, a folder of parts, or scored CSV.")
    ],
    subset: Annotated[str | None, typer.Option(help="Only this subset's videos, such as validation.")] = None,
    tiou: Annotated[str, typer.Option(help="Thresholds start:stop:step, the stop included.")] = "0.3:0.7:0.1",
    labels: Annotated[str | None, typer.Option(help="Label set; finer names become its own.")] = None,
    frame_score: Annotated[float, typer.Option(help="Lowest score that names a frame's class.", min=0, max=1)] = 0.5,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Average precision by class and tIoU, average recall, its area, boundary errors, frame accuracy, F1 and edit."""
    result = evaluate(ground_truth, detections, parse_tiou(tiou), subset, labels, frame_score)
    if json:
        print_json(result)
        return
    # Narrow enough that the ten thresholds of ActivityNet fit into 80 columns.
    table = Table("AP %", box=box.SIMPLE, padding=0)
    for threshold in result["tiou"]:
        table.add_column(f"{threshold:g}", justify="right")
    table.add_column("mean", justify="right")
    rows = sorted(result["ap_by_class"].items(), key=lambda row: -np.mean(row[1]))
    for name, values in rows:
        table.add_row(name, *(f"{100 * value:.1f}" for value in (*values, np.mean(values))))
    table.add_section()
    table.add_row("[bold]mAP[/]", *(f"{100 * value:.1f}" for value in (*result["map"], result["average_map"])))
    console = Console(highlight=False)
    console.print(table)
    recall = ", ".join(f"AR@{n} {100 * value:.1f}" for n, value in result["ar"].items())
    console.print(f"{recall}, AUC {result['auc']:.1f} (of 99)")
    errors = result["boundaries"]
    if errors["matched"]:
        start, end = errors["start_median_s"], errors["end_median_s"]
        console.print(
            f"median boundary error: start {start:.3f} s, end {end:.3f} s ({errors['matched']} pairs, tIoU 0.5)"
        )
    if frames := result["frames"]:
        f1 = "/".join(f"{100 * frames['f1'][k]:.1f}" for k in ("10", "25", "50"))
        inside = frames["foreground_accuracy"]
        console.print(
            f"frames right: {frames['accuracy']:.1%}, inside steps {'-' if inside is None else f'{inside:.1%}'}; "
            f"F1@10/25/50 {f1}, edit {100 * frames['edit']:.1f}"
        )
    console.print(f"{result['detections']} detections, {result['segments']} segments in {result['videos']} videos")
    if result["without_ground_truth"]:
        console.print(f"detected but not in this ground truth: {result['without_ground_truth']}", markup=False)


if __name__ == "__main__":
    run(main)
