"""What kinds of errors detections make, and what each kind costs, in the manner of DETAD (Alwassel et al. 2018)."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from balletal.errors import InputError
from balletal.metrics.detection import (
    BALLET_TIOU,
    check_table,
    check_tiou,
    group_codes,
    match_detections,
    overlapping_pairs,
    precision_areas,
    segment_times,
)
from balletal.segments import DETECTION_COLUMNS, SEGMENT_COLUMNS

OUTCOMES = ("true_positive", "double", "wrong_label", "localization", "confusion", "background")
"""What a detection can be at a threshold; all but the first are errors."""

TIERS = 10  # of each label the best TIERS x G detections are looked at, where G is the number of its segments
_TOUCHING = 0.1  # tIoU from which on a detection has to do with a segment


def diagnose_detections(ground_truth: pd.DataFrame, detections: pd.DataFrame, tiou: ArrayLike = BALLET_TIOU) -> dict:
    """Every detection by what it is, and the average mAP that each kind of error costs.

    At a threshold, with mAP's own matching, a detection is the first of these that is true of it:

    - ``true_positive``: mAP counts it as right;
    - ``double``: it overlaps a segment of its label enough, but better scored detections have that;
    - ``wrong_label``: it overlaps a segment of another label enough;
    - ``localization``: it overlaps one of its label, by a tIoU from 0.1 to the threshold: a wrong boundary;
    - ``confusion``: so for another label: both are wrong;
    - ``background``: it overlaps nothing.

    DETAD asks the segment of the highest tIoU alone; where steps overlap, this asks all of them, the right label first.

    Args:
        ground_truth: segment table.
        detections: segment table with ``score``.
        tiou: T thresholds in (0, 1].

    Returns:
        JSON-able: ``tiou`` [T], ``segments``, ``average_map``; ``counts`` {outcome: [T][10]}: of each label, with G
        segments, the best G detections, those after them up to 2 G, ... up to 10 G, added over the labels; ``missed``
        [T], the segments that no detection finds; ``gain`` {error or ``missed``: average mAP gained if all errors of a
        kind were never made, or the missed segments not asked for}. None where no label has a segment left.

    Raises:
        InputError: missing columns, values that are not finite, no ground truth, thresholds outside (0, 1].
    """
    check_table("ground truth", ground_truth, SEGMENT_COLUMNS)
    check_table("detections", detections, DETECTION_COLUMNS)
    thresholds = check_tiou(tiou)
    if ground_truth.empty:
        raise InputError("ground truth", expected="at least one segment", found="none")
    positives = ground_truth["label"].value_counts().sort_index()
    match = match_detections(ground_truth, detections, thresholds)
    hit = match >= 0
    outcome = _outcomes(ground_truth, detections, hit, thresholds)
    tier = _tiers(detections, positives)
    ap = precision_areas(detections, hit, positives)
    gain = {
        kind: float((precision_areas(detections, hit, positives, outcome != code) - ap).mean())
        for code, kind in enumerate(OUTCOMES)
        if code
    }
    return {
        "tiou": thresholds.tolist(),
        "segments": len(ground_truth),
        "average_map": float(ap.mean()),
        "counts": {
            kind: [np.bincount(tier[level == code], minlength=TIERS + 1)[:TIERS].tolist() for level in outcome]
            for code, kind in enumerate(OUTCOMES)
        },
        "missed": (len(ground_truth) - hit.sum(axis=1)).tolist(),
        "gain": gain | {"missed": _gain_of_missed(ground_truth, match, ap, positives)},
    }


def _outcomes(
    ground_truth: pd.DataFrame, detections: pd.DataFrame, hit: NDArray[np.bool_], tiou: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Position in ``OUTCOMES`` of each detection at each threshold: (T, D)."""
    group_d, group_g = group_codes(detections, ground_truth, ["video_id"])
    label_d, label_g = group_codes(detections, ground_truth, ["label"])
    same, any_label = np.zeros(len(detections)), np.zeros(len(detections))
    least = min(_TOUCHING, float(tiou.min()))
    times_d, times_g = segment_times(detections), segment_times(ground_truth)
    for detection, gt, iou in overlapping_pairs(group_d, times_d, group_g, times_g, least):
        np.maximum.at(any_label, detection, iou)
        agree = label_d[detection] == label_g[gt]
        np.maximum.at(same, detection[agree], iou[agree])
    enough = tiou[:, None]
    tests = [hit, same >= enough, any_label >= enough, same >= _TOUCHING, any_label >= _TOUCHING]
    return np.select(np.broadcast_arrays(*tests), range(len(tests)), len(tests)).reshape(hit.shape)


def _tiers(detections: pd.DataFrame, positives: pd.Series) -> NDArray[np.int64]:
    """0 for the best G detections of a label with G segments, 1 for the next G ...; at most ``TIERS``: (D,)."""
    label = positives.index.get_indexer(pd.Index(detections["label"]))
    order = np.lexsort((-detections["score"].to_numpy(np.float64), label))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order)) - np.searchsorted(label[order], label[order])
    tier = np.minimum(rank // positives.to_numpy()[label], TIERS)
    return np.where(label >= 0, tier, TIERS)


def _gain_of_missed(
    ground_truth: pd.DataFrame, match: NDArray[np.int64], ap: NDArray[np.float64], positives: pd.Series
) -> float | None:
    """AP is a sum over recall, so that asking for the found segments alone stretches it by all / found."""
    label = positives.index.get_indexer(pd.Index(ground_truth["label"]))
    found = np.stack([np.bincount(label[m[m >= 0]], minlength=len(positives)) for m in match], axis=1)
    asked = found > 0  # a label of which nothing is found leaves the mean
    if not asked.any(axis=0).all():
        return None
    stretched: NDArray[Any] = np.where(asked, ap * positives.to_numpy()[:, None] / np.maximum(found, 1), 0.0)
    return float((stretched.sum(axis=0) / asked.sum(axis=0) - ap.mean(axis=0)).mean())
