"""The score from which on detections are believed."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from balletal.metrics.detection import check_table, check_tiou, match_detections
from balletal.segments import DETECTION_COLUMNS, SEGMENT_COLUMNS


@dataclass(frozen=True)
class OperatingPoint:
    """The detections from one score on.

    Attributes:
        threshold: that score.
        kept: how many there are.
        f1, precision, recall: of these, with the right label.
    """

    threshold: float
    kept: int
    f1: float
    precision: float
    recall: float


def best_f1(ground_truth: pd.DataFrame, detections: pd.DataFrame, tiou: float = 0.5) -> OperatingPoint:
    """The one score threshold with the best F1 over all videos.

    When no detection hits anything, as many as there are annotated segments are kept.

    Args:
        ground_truth: segment table.
        detections: segment table with ``score``.

    Raises:
        InputError: missing columns, values that are not finite, a threshold outside (0, 1].
    """
    check_table("ground truth", ground_truth, SEGMENT_COLUMNS)
    check_table("detections", detections, DETECTION_COLUMNS)
    if detections.empty:
        return OperatingPoint(0.0, 0, 0.0, 0.0, 0.0)
    order = np.argsort(-detections["score"].to_numpy(np.float64), kind="stable")
    scores = detections["score"].to_numpy(np.float64)[order]
    found = (match_detections(ground_truth, detections, check_tiou(tiou))[0] >= 0)[order].cumsum()
    # F1 = 2 TP / (predicted + annotated); the detections with one score stand or fall together.
    f1 = 2 * found / (np.arange(1, len(scores) + 1) + len(ground_truth))
    last_of_score = np.append(scores[:-1] != scores[1:], True)
    best = int(np.argmax(np.where(last_of_score, f1, -1.0))) if found[-1] else min(len(ground_truth), len(scores)) - 1
    kept = best + 1
    return OperatingPoint(
        threshold=float(scores[max(best, 0)]),
        kept=kept,
        f1=float(f1[best]) if kept else 0.0,
        precision=float(found[best] / kept) if kept else 0.0,
        recall=float(found[best] / len(ground_truth)) if len(ground_truth) else 0.0,
    )
