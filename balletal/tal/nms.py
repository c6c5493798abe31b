"""Non-maximum suppression of overlapping segments: hard, or soft (Bodla et al. 2017) as ActionFormer has it in time."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from balletal.errors import InputError

Method = Literal["gaussian", "linear", "hard"]

# Added to every length, so that an empty segment still overlaps itself.
_EPSILON = 1e-6


def soft_nms(
    segments: ArrayLike,
    scores: ArrayLike,
    *,
    labels: ArrayLike | None = None,
    counted: ArrayLike | None = None,
    method: Method = "gaussian",
    sigma: float = 0.5,
    iou_threshold: float = 0.5,
    min_score: float = 0.0,
    max_segments: int | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Pick segments by descending score; each pick lowers the scores of those of its class that it overlaps.

    After each pick the remaining ones of its class whose lowered score is below ``min_score`` are dropped; the first
    pick of a class is never dropped, whatever its score. Equal scores: by class, then input order.

    Args:
        segments: (N, 2) seconds.
        scores: (N,).
        labels: (N,) class ids; None: all are of one class.
        counted: (N,) bool, those of interest: it ends when none of them is left. The others lower scores as well.
        method: how a score is lowered: ``gaussian`` times exp(-IoU^2 / sigma), ``linear`` times (1 - IoU) where
            IoU >= ``iou_threshold``, ``hard`` drops the segment there.
        max_segments: stop after so many picks of those that are ``counted``; None picks all.

    Returns:
        segments (K, 2), lowered scores (K,) and indices (K,) into the input, in order of selection (descending score).

    Raises:
        InputError: shapes that do not fit, values that are not finite, an unknown method, sigma <= 0.
    """
    segments = np.asarray(segments, dtype=np.float64).reshape(-1, 2)
    scores = np.asarray(scores, dtype=np.float64)
    labels = np.zeros(len(segments), np.int64) if labels is None else np.asarray(labels)
    counted = np.ones(len(segments), bool) if counted is None else np.asarray(counted, dtype=bool)
    _check(segments, scores, labels, counted, method, sigma)

    # Class after class: what a pick can lower is one slice. Those that are picked or dropped score minus infinity.
    order = np.argsort(labels, kind="stable")
    labels, counted, score = labels[order], counted[order], scores[order]
    first, last = (np.searchsorted(labels, labels, side).tolist() for side in ("left", "right"))
    start, end = segments[order].T.copy()
    length = end - start + _EPSILON
    picked: list[int] = []
    picked_scores: list[float] = []
    left = int(counted.sum())  # of those that are counted, neither picked nor dropped
    wanted = left if max_segments is None else max_segments
    while left and wanted > 0:
        best = int(score.argmax())
        picked.append(best)
        picked_scores.append(float(score[best]))
        wanted -= int(counted[best])
        mine = slice(first[best], last[best])
        overlap = np.maximum(np.minimum(end[mine], end[best]) - np.maximum(start[mine], start[best]), 0.0)
        iou = overlap / (length[mine] + length[best] - overlap)
        there = score[mine] > -np.inf
        lowered = np.where(there, score[mine], 0.0)
        if method == "gaussian":
            lowered *= np.exp(-(iou * iou) / sigma)
        elif method == "linear":
            lowered[iou >= iou_threshold] *= 1.0 - iou[iou >= iou_threshold]
        kept = there & (lowered >= min_score)
        if method == "hard":
            kept &= iou < iou_threshold
        kept[best - mine.start] = False
        score[mine] = np.where(kept, lowered, -np.inf)
        left -= int(np.count_nonzero(there & ~kept & counted[mine]))
    indices = order[np.array(picked, dtype=np.int64)]
    return segments[indices], np.array(picked_scores), indices


def _check(
    segments: NDArray[np.float64],
    scores: NDArray[np.float64],
    labels: NDArray,
    counted: NDArray[np.bool_],
    method: str,
    sigma: float,
) -> None:
    for name, values in (("scores", scores), ("labels", labels), ("counted", counted)):
        if values.shape != (len(segments),):
            raise InputError("soft_nms", expected=f"{len(segments)} {name}", found=f"shape {values.shape}")
    if not (np.isfinite(segments).all() and np.isfinite(scores).all()):
        raise InputError("soft_nms", expected="finite segments and scores", found="NaN or infinity")
    if method not in ("gaussian", "linear", "hard"):
        raise InputError("soft_nms", expected="method gaussian, linear or hard", found=repr(method))
    if sigma <= 0:
        raise InputError("soft_nms", expected="sigma > 0", found=str(sigma))
