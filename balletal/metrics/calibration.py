"""Whether scores are probabilities: how far they lie from the share of right detections, and a temperature to mend it.

After Guo et al. 2017, "On Calibration of Modern Neural Networks".
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from balletal.errors import InputError
from balletal.metrics.detection import check_table, check_tiou, match_detections
from balletal.segments import DETECTION_COLUMNS, SEGMENT_COLUMNS

BINS = 15

_EPSILON = 1e-6  # scores this near to 0 and 1 are taken for it: their logit is infinite
_TEMPERATURES = (1e-2, 1e2)


def calibration(ground_truth: pd.DataFrame, detections: pd.DataFrame, tiou: float = 0.5) -> dict:
    """Reliability of detection scores against being a true positive of mAP's matching at one tIoU.

    Args:
        ground_truth: segment table.
        detections: segment table with ``score`` in [0, 1].

    Returns:
        JSON-able: ``tiou`` and what :func:`reliability` gives.

    Raises:
        InputError: missing columns, values that are not finite, scores outside [0, 1].
    """
    return {"tiou": float(tiou)} | reliability(*_hits(ground_truth, detections, tiou))


def detection_temperature(ground_truth: pd.DataFrame, detections: pd.DataFrame, tiou: float = 0.5) -> float:
    """The temperature at which detection scores tell best whether they are true positives at one tIoU.

    Args, raises: as :func:`calibration`.

    Returns:
        what :func:`fit_temperature` gives; to be found on other videos than those that it is reported for.
    """
    return fit_temperature(*_hits(ground_truth, detections, tiou))


def _hits(
    ground_truth: pd.DataFrame, detections: pd.DataFrame, tiou: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    check_table("ground truth", ground_truth, SEGMENT_COLUMNS)
    check_table("detections", detections, DETECTION_COLUMNS)
    hit = match_detections(ground_truth, detections, check_tiou(tiou))[0] >= 0
    return detections["score"].to_numpy(np.float64), hit


def reliability(scores: ArrayLike, hits: ArrayLike, bins: int = BINS) -> dict[str, Any]:
    """Expected calibration error (ECE) over bins of equal width.

    Args:
        scores: (N,) in [0, 1].
        hits: (N,) bool, whether each was right.

    Returns:
        JSON-able: ``ece``, the mean over all scores of |mean score - share of hits| in the score's bin (None where
        there is no score); ``bins``: ``from``, ``to``, ``count``, ``score`` (mean) and ``precision`` (share of hits),
        None where empty.

    Raises:
        InputError: scores outside [0, 1], or not as many as hits.
    """
    score, hit = _checked(scores, hits)
    which = np.minimum((score * bins).astype(np.int64), bins - 1)
    count = np.bincount(which, minlength=bins)
    total, right = (np.bincount(which, weights=values, minlength=bins) for values in (score, hit))
    table = [
        {
            "from": i / bins,
            "to": (i + 1) / bins,
            "count": int(n),
            "score": float(total[i] / n) if n else None,
            "precision": float(right[i] / n) if n else None,
        }
        for i, n in enumerate(count)
    ]
    return {"ece": float(np.abs(total - right).sum() / len(score)) if len(score) else None, "bins": table}


def fit_temperature(scores: ArrayLike, hits: ArrayLike) -> float:
    """The temperature T for which sigmoid(logit(score) / T) has the least log loss, between 0.01 and 100.

    Args:
        scores: (N,) in [0, 1].
        hits: (N,) bool, whether each was right.

    Returns:
        1.0 where there is nothing to learn from: no score, or only hits, or none.

    Raises:
        InputError: scores outside [0, 1], or not as many as hits.
    """
    score, hit = _checked(scores, hits)
    if not len(hit) or hit.all() or not hit.any():
        return 1.0
    logit = _logit(score)
    # The loss is convex in 1 / T: its slope there, mean((p - hit) * logit), rises, and is 0 at the minimum.
    low, high = np.log(_TEMPERATURES)
    for _ in range(40):
        middle = (low + high) / 2
        slope = float(((_sigmoid(logit * np.exp(-middle)) - hit) * logit).mean())
        low, high = (middle, high) if slope > 0 else (low, middle)
    return float(np.exp((low + high) / 2))


def _checked(scores: ArrayLike, hits: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    score, hit = np.asarray(scores, dtype=np.float64), np.asarray(hits, dtype=bool)
    if score.ndim != 1 or score.shape != hit.shape:
        raise InputError("hits", expected=f"one for each of the scores, {score.shape}", found=str(hit.shape))
    bad = ~((score >= 0) & (score <= 1))
    if bad.any():
        raise InputError("scores", expected="values in [0, 1]", found=f"{score[bad.argmax()]} ({bad.sum()} such)")
    return score, hit


def _logit(score: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = score.clip(_EPSILON, 1 - _EPSILON)
    return np.log(clipped) - np.log1p(-clipped)


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    # tanh does not overflow.
    return 0.5 * (1.0 + np.tanh(0.5 * x))
