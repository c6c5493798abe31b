"""How detections do on short and on long segments."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from balletal.metrics.detection import (
    BALLET_TIOU,
    check_table,
    check_tiou,
    match_detections,
    precision_areas,
    segment_times,
)
from balletal.segments import DETECTION_COLUMNS, SEGMENT_COLUMNS

# Fixed, not quantiles of a data set, so that results on different splits and corpora stand side by side. Ballet steps
# last 0.66 s in the median and 0.36 to 1.12 s from the 5th to the 95th percentile (AnnChor): two ordinary bins and
# the ends.
DURATION_EDGES = (0.4, 0.7, 1.2)


def duration_table(
    ground_truth: pd.DataFrame,
    detections: pd.DataFrame,
    tiou: ArrayLike = BALLET_TIOU,
    edges: Sequence[float] = DURATION_EDGES,
) -> dict:
    """Recall and mAP of the segments of each bin of durations.

    The matching is that of the whole table. In a bin, the detections that found a segment of another bin do not count,
    and of those that found nothing only the ones that last as long as the bin's segments: they are its false positives.

    Args:
        ground_truth: segment table.
        detections: segment table with ``score``.
        edges: ascending seconds between the bins; a bin holds its lower edge.

    Returns:
        JSON-able: ``tiou`` [T] and ``bins``: ``from`` and ``to`` in seconds (None: open), ``segments``, ``recall`` [T],
        ``map`` [T] over the labels that the bin has, ``average_map``; None where the bin is empty.

    Raises:
        InputError: missing columns, values that are not finite, thresholds outside (0, 1].
    """
    check_table("ground truth", ground_truth, SEGMENT_COLUMNS)
    check_table("detections", detections, DETECTION_COLUMNS)
    thresholds = check_tiou(tiou)
    match = match_detections(ground_truth, detections, thresholds)
    bin_g, bin_d = (_bins(table, edges) for table in (ground_truth, detections))
    # The bin in which a detection counts: that of the segment it found, else its own.
    counts_in = np.broadcast_to(bin_d, match.shape).copy()
    counts_in[match >= 0] = bin_g[match[match >= 0]]
    limits = [None, *map(float, edges), None]
    bins: list[dict[str, Any]] = []
    for i, (low, high) in enumerate(pairwise(limits)):
        mine = ground_truth[bin_g == i]
        row: dict[str, Any] = {"from": low, "to": high, "segments": len(mine)}
        row |= dict.fromkeys(("recall", "map", "average_map"))
        if len(mine):
            hit = (match >= 0) & (counts_in == i)
            ap = precision_areas(detections, hit, mine["label"].value_counts().sort_index(), counts_in == i)
            row["recall"] = (hit.sum(axis=1) / len(mine)).tolist()
            row |= {"map": ap.mean(axis=0).tolist(), "average_map": float(ap.mean())}
        bins.append(row)
    return {"tiou": thresholds.tolist(), "bins": bins}


def _bins(table: pd.DataFrame, edges: Sequence[float]) -> NDArray[np.int64]:
    start, end = segment_times(table).T
    # To the microsecond: 10.4 - 10 is a little less than 0.4.
    return np.searchsorted(np.asarray(edges, dtype=np.float64), np.round(end - start, 6), side="right")
