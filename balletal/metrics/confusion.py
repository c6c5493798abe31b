"""Which labels are taken for which, and how often left is taken for right."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from balletal.errors import InputError
from balletal.labels import LabelSet
from balletal.metrics.detection import check_table, check_tiou, group_codes, overlapping_pairs, segment_times
from balletal.segments import DETECTION_COLUMNS, SEGMENT_COLUMNS


def confusion_matrix(
    ground_truth: pd.DataFrame, detections: pd.DataFrame, labels: LabelSet, min_score: float = 0.0, tiou: float = 0.5
) -> dict:
    """For each annotated segment the label of the best-scored detection that overlaps it enough, whatever its label.

    Args:
        ground_truth: segment table.
        detections: segment table with ``score``.
        labels: rows and columns, in this order.
        min_score: a detection of this score or more that overlaps no segment enough counts as found in the background.
            Segments ask all detections.

    Returns:
        JSON-able: ``labels`` [C], ``tiou``, ``min_score``; ``counts`` [C + 1][C + 1]: a row a true label, the last one
        for the background; a column a detected label, the last one for ``missed``; ``sides``: None where the label set
        does not tell left from right, else :func:`side_confusion`.

    Raises:
        InputError: missing columns, values that are not finite, labels outside ``labels``.
    """
    check_table("ground truth", ground_truth, SEGMENT_COLUMNS)
    check_table("detections", detections, DETECTION_COLUMNS)
    least = float(check_tiou(tiou)[0])
    truth, said = (_classes(table, labels) for table in (ground_truth, detections))
    score = detections["score"].to_numpy(np.float64)
    group_d, group_g = group_codes(detections, ground_truth, ["video_id"])
    times_d, times_g = segment_times(detections), segment_times(ground_truth)

    best = np.full(len(truth), len(labels))  # the column "missed"
    best_score = np.full(len(truth), -np.inf)
    alone = score >= min_score
    for found, gt, _ in overlapping_pairs(group_d, times_d, group_g, times_g, least):
        alone[found] = False
        better = np.flatnonzero(score[found] > best_score[gt])
        better = better[np.lexsort((-found[better], score[found[better]]))]  # of repeated places the last written stays
        best[gt[better]] = said[found[better]]
        best_score[gt[better]] = score[found[better]]

    counts = np.zeros((len(labels) + 1, len(labels) + 1), dtype=np.int64)
    np.add.at(counts, (truth, best), 1)
    counts[-1, :-1] = np.bincount(said[alone], minlength=len(labels))
    return {
        "labels": list(labels.labels),
        "tiou": least,
        "min_score": float(min_score),
        "counts": counts.tolist(),
        "sides": side_confusion(counts, labels) if labels.mirrored else None,
    }


def side_confusion(counts: NDArray[np.int64], labels: LabelSet) -> dict[str, Any]:
    """How often the right step is found on the wrong side.

    Args:
        counts: of :func:`confusion_matrix`.

    Returns:
        JSON-able: ``found``, the segments of a sided label whose detection names their step; ``swapped``, those of
        them where it names the other side; ``rate``, their share (0.5 is guessing; None where none is found).
    """
    mine = np.array([labels.index[name] for name in labels.mirrored], dtype=np.int64)
    other = np.array([labels.index[name] for name in labels.mirrored.values()], dtype=np.int64)
    swapped = int(counts[mine, other].sum())
    found = int(counts[mine, mine].sum()) + swapped
    return {"found": found, "swapped": swapped, "rate": swapped / found if found else None}


def _classes(table: pd.DataFrame, labels: LabelSet) -> NDArray[np.int64]:
    unknown = sorted(set(table["label"]) - set(labels.labels))
    if unknown:
        raise InputError("confusion matrix", expected=f"labels of {labels.name}", found=", ".join(unknown))
    return table["label"].map(labels.index).to_numpy(np.int64)
