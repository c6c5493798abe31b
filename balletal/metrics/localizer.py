"""All measures of one bundle on annotated videos: what `metrics.json` holds."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from balletal.annotations import Annotations, step_tags
from balletal.errors import InputError
from balletal.features.store import VideoFeatures
from balletal.labels import LabelSet
from balletal.metrics.boundaries import boundary_errors
from balletal.metrics.calibration import calibration
from balletal.metrics.confusion import confusion_matrix
from balletal.metrics.detection import BALLET_TIOU, evaluate_detections
from balletal.metrics.diagnosis import diagnose_detections
from balletal.metrics.durations import duration_table
from balletal.metrics.frames import GRID_FPS, frame_accuracy, frame_labels, frame_metrics
from balletal.metrics.operating import best_f1
from balletal.metrics.tags import tag_metrics
from balletal.tal.localizer import Localizer


def evaluate_localizer(
    localizer: Localizer, videos: Iterable[VideoFeatures], ground_truth: Annotations, tiou: ArrayLike = BALLET_TIOU
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Localize videos and measure the result.

    The foreground frame accuracy asks, of the frames inside an annotated step, how many get the right class by the
    highest class score, without a threshold. The plain accuracy calls a frame background where no class reaches
    ``decode.frame_threshold``.

    Args:
        ground_truth: usable segments of these videos, their tags and durations.

    Returns:
        detections; what :func:`measure_detections` gives and ``frames``, JSON-able (schemas/metrics.schema.json).

    Raises:
        InputError: no video; a video of unknown duration; bad features.
    """
    durations = ground_truth.durations
    by_video = dict(list(ground_truth.segments.groupby("video_id")))
    none = ground_truth.segments.iloc[:0]
    detections, truths, labelled, best = [], [], [], []
    for video in videos:
        if video.video_id not in durations:
            raise InputError(f"video {video.video_id}", expected="a duration in the annotations", found="none")
        duration = durations[video.video_id]
        truths.append(frame_labels(by_video.get(video.video_id, none), localizer.labels, duration))
        times = (np.arange(len(truths[-1]), dtype=np.float64) + 0.5) / GRID_FPS
        found, scores = localizer.localize_with_scores(video, times, duration=duration)
        detections.append(found)
        with_background, foreground = _frames(scores, localizer.recipe.decode.frame_threshold)
        labelled.append(with_background)
        best.append(foreground)
    if not truths:
        raise InputError("evaluation", expected="at least one video", found="none")
    table = pd.concat(detections, ignore_index=True)
    in_steps = frame_accuracy(np.concatenate(best), np.concatenate(truths))["foreground"]
    metrics = measure_detections(ground_truth, table, localizer.labels, tiou)
    metrics["frames"] = frame_metrics(labelled, truths) | {"foreground_accuracy": in_steps}
    return table, metrics


def measure_detections(
    ground_truth: Annotations, detections: pd.DataFrame, labels: LabelSet, tiou: ArrayLike = BALLET_TIOU
) -> dict[str, Any]:
    """All measures that need no more than detections.

    Args:
        ground_truth: usable segments of the videos that were localized, their tags and durations.
        detections: segment table with ``score``, and ``tags`` where the model tells them.

    Returns:
        ``detection``, ``boundaries``, ``diagnosis``, ``confusion``, ``durations``, ``calibration``, and ``tags`` where
        detections have them; JSON-able. The confusion's background are detections from the score on that gives the
        best F1.

    Raises:
        InputError: no ground truth; bad detections.
    """
    truth = ground_truth.segments
    measured = {
        "detection": evaluate_detections(truth, detections, tiou, list(ground_truth.durations), labels.labels),
        "boundaries": boundary_errors(truth, detections),
        "diagnosis": diagnose_detections(truth, detections, tiou),
        "confusion": confusion_matrix(truth, detections, labels, best_f1(truth, detections).threshold),
        "durations": duration_table(truth, detections, tiou),
        "calibration": calibration(truth, detections),
    }
    if "tags" in detections:
        tagged = truth.assign(tags=step_tags(truth, ground_truth.tags, labels.tags))
        measured["tags"] = tag_metrics(tagged, detections, labels.tags)
    return measured


def _frames(scores: NDArray[np.float64], threshold: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Class of each of n frames with scores (n, C): with background (-1) by threshold, and without."""
    best = np.where(scores.max(1) > 0, scores.argmax(1), -1)
    return np.where(scores.max(1) >= threshold, best, -1), best
