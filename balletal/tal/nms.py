"""Non-maximum suppression of overlapping segments: hard, or soft (Bodla et al. 2017) as ActionFormer has it in time."""

from itertools import pairwise
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
    counted, score = counted[order], scores[order]
    start, end = segments[order].T.copy()
    length = end - start + _EPSILON
    _, first, which = np.unique(labels[order], return_index=True, return_inverse=True)
    edges, class_of = [*first.tolist(), len(order)], which.tolist()
    columns = [tuple(x[a:b] for x in (start, end, length, score, counted)) for a, b in pairwise(edges)]
    counts = [int(np.count_nonzero(mine[-1])) for mine in columns]  # that are neither picked nor dropped
    picked: list[int] = []
    picked_scores: list[float] = []
    left, wanted = sum(counts), len(order) if max_segments is None else max_segments
    while left and wanted > 0:
        best = int(score.argmax())
        picked.append(best)
        picked_scores.append(float(score[best]))
        wanted -= int(counted[best])
        c = class_of[best]
        starts, ends, lengths, current, own = columns[c]
        overlap = np.maximum(np.minimum(ends, end[best]) - np.maximum(starts, start[best]), 0.0)
        iou = overlap / (lengths + length[best] - overlap)
        if method == "gaussian":
            factor = np.exp(-(iou * iou) / sigma)
        else:
            factor = 1.0 - (iou >= iou_threshold) * (iou if method == "linear" else 1.0)
        with np.errstate(invalid="ignore"):  # 0 times minus infinity: not kept either
            lowered = current * factor
        kept = lowered >= min_score
        if method == "hard":
            kept &= iou < iou_threshold
        kept[best - edges[c]] = False
        current[:] = np.where(kept, lowered, -np.inf)
        still = int(np.count_nonzero(kept & own))
        left, counts[c] = left + still - counts[c], still
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
