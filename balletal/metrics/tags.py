"""Whether the tags of found steps are right."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from balletal.metrics.detection import check_table, check_tiou, match_detections
from balletal.segments import DETECTION_COLUMNS, SEGMENT_COLUMNS


def tag_metrics(ground_truth: pd.DataFrame, detections: pd.DataFrame, names: Sequence[str], tiou: float = 0.5) -> dict:
    """Precision, recall and F1 of each tag among the detections that find a step: pairs of mAP's matching at one tIoU.

    A step that no detection finds counts nowhere: whether it is found is for other measures to say.

    Args:
        ground_truth: segment table with ``tags`` (lists of names), as :func:`balletal.annotations.step_tags` gives.
        detections: segment table with ``score`` and ``tags``.
        names: of the tags.

    Returns:
        JSON-able: ``tiou``, ``matched`` pairs, and ``tags``: for each name ``annotated`` and ``told`` of these pairs,
        ``precision``, ``recall``, ``f1`` (None where there is nothing to divide by).

    Raises:
        InputError: missing columns, values that are not finite.
    """
    check_table("ground truth", ground_truth, (*SEGMENT_COLUMNS, "tags"))
    check_table("detections", detections, (*DETECTION_COLUMNS, "tags"))
    match = match_detections(ground_truth, detections, check_tiou(tiou))[0]
    hit = match >= 0
    pairs = list(zip(ground_truth["tags"].iloc[match[hit]], detections["tags"][hit], strict=True))
    measured: dict[str, Any] = {}
    for name in names:
        has = np.array([[name in tags for tags in pair] for pair in pairs], dtype=bool).reshape(-1, 2)
        annotated, told = has.sum(axis=0).tolist()
        right = int(has.all(axis=1).sum())
        measured[name] = {
            "annotated": annotated,
            "told": told,
            "precision": right / told if told else None,
            "recall": right / annotated if annotated else None,
            "f1": 2 * right / (told + annotated) if told + annotated else None,
        }
    return {"tiou": float(tiou), "matched": len(pairs), "tags": measured}
