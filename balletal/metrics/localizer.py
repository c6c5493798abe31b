"""All measures of one bundle on annotated videos: what `metrics.json` holds."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from balletal.annotations import Annotations
from balletal.errors import InputError
from balletal.features.store import VideoFeatures
from balletal.metrics.boundaries import boundary_errors
from balletal.metrics.calibration import calibration
from balletal.metrics.confusion import confusion_matrix
from balletal.metrics.detection import BALLET_TIOU, evaluate_detections
from balletal.metrics.diagnosis import diagnose_detections
from balletal.metrics.durations import duration_table
from balletal.metrics.frames import GRID_FPS, frame_accuracy, frame_labels, frame_metrics
from balletal.metrics.operating import best_f1
from balletal.tal.localizer import Localizer
from balletal.tal.models import Outputs


def evaluate_localizer(
    localizer: Localizer, videos: Iterable[VideoFeatures], ground_truth: Annotations, tiou: ArrayLike = BALLET_TIOU
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Localize videos and measure the result.

    The foreground frame accuracy asks, of the frames inside an annotated step, how many get the right class by the
    highest class score, without a threshold. The plain accuracy calls a frame background where no class reaches
    ``decode.frame_threshold``.

    Args:
        ground_truth: usable segments of these videos and their durations.

    Returns:
        detections, and ``{"detection", "frames", "boundaries", "diagnosis", "confusion", "durations", "calibration"}``,
        JSON-able (schemas/metrics.schema.json). The confusion's background are detections from the best F1's score on.

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
        outputs = localizer.outputs(video) if len(video.features) else None
        detections.append(localizer.localize(video, duration=duration, outputs=outputs))
        with_background, foreground = _frames(localizer, video, len(truths[-1]), duration, outputs)
        labelled.append(with_background)
        best.append(foreground)
    if not truths:
        raise InputError("evaluation", expected="at least one video", found="none")
    table = pd.concat(detections, ignore_index=True)
    in_steps = frame_accuracy(np.concatenate(best), np.concatenate(truths))["foreground"]
    believed = best_f1(ground_truth.segments, table)
    metrics = {
        "detection": evaluate_detections(ground_truth.segments, table, tiou, list(durations), localizer.labels.labels),
        "frames": frame_metrics(labelled, truths) | {"foreground_accuracy": in_steps},
        "boundaries": boundary_errors(ground_truth.segments, table),
        "diagnosis": diagnose_detections(ground_truth.segments, table, tiou),
        "confusion": confusion_matrix(ground_truth.segments, table, localizer.labels, believed.threshold),
        "durations": duration_table(ground_truth.segments, table, tiou),
        "calibration": calibration(ground_truth.segments, table),
    }
    return table, metrics


def _frames(
    localizer: Localizer, video: VideoFeatures, n: int, duration: float, outputs: Outputs | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Class of each of n frames of a 25 fps grid, with background (-1) by threshold and without."""
    times = (np.arange(n, dtype=np.float64) + 0.5) / GRID_FPS
    scores = localizer.class_scores(video, times, duration=duration, outputs=outputs)
    best = np.where(scores.max(1) > 0, scores.argmax(1), -1)
    return np.where(scores.max(1) >= localizer.recipe.decode.frame_threshold, best, -1), best
