"""How far detected boundaries lie from the true ones, in seconds."""

import numpy as np
import pandas as pd

from balletal.metrics.detection import check_table, check_tiou, match_detections
from balletal.segments import DETECTION_COLUMNS, SEGMENT_COLUMNS


def boundary_errors(ground_truth: pd.DataFrame, detections: pd.DataFrame, tiou: float = 0.5) -> dict:
    """Medians of |start error| and |end error| over the pairs that mAP's matching makes at one tIoU.

    Args:
        ground_truth: segment table.
        detections: segment table with ``score``.

    Returns:
        JSON-able: ``tiou``, ``matched`` pairs, ``segments`` of the ground truth, ``start_median_s`` and
        ``end_median_s`` (None when nothing matched).

    Raises:
        InputError: missing columns, values that are not finite.
    """
    check_table("ground truth", ground_truth, SEGMENT_COLUMNS)
    check_table("detections", detections, DETECTION_COLUMNS)
    match = match_detections(ground_truth, detections, check_tiou(tiou))[0]
    hit = match >= 0
    columns = ["start", "end"]
    found = detections[columns].to_numpy(np.float64)[hit]
    errors = np.abs(found - ground_truth[columns].to_numpy(np.float64)[match[hit]])
    start, end = np.median(errors, axis=0).tolist() if hit.any() else (None, None)
    return {
        "tiou": float(tiou),
        "matched": int(hit.sum()),
        "segments": len(ground_truth),
        "start_median_s": start,
        "end_median_s": end,
    }
