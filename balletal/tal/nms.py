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
    method: Method = "gaussian",
    sigma: float = 0.5,
    iou_threshold: float = 0.5,
    min_score: float = 0.0,
    max_segments: int | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Pick segments by descending score; each pick lowers the scores of those it overlaps.

    The segments are taken as of one class. After each pick the remaining ones whose lowered score is below
    ``min_score`` are dropped; the first pick is never dropped, whatever its score. Equal scores: input order.

    Args:
        segments: (N, 2) seconds.
        scores: (N,).
        method: how a score is lowered: ``gaussian`` times exp(-IoU^2 / sigma), ``linear`` times (1 - IoU) where
            IoU >= ``iou_threshold``, ``hard`` drops the segment there.
        max_segments: stop after so many picks; None picks all.

    Returns:
        segments (K, 2), lowered scores (K,) and indices (K,) into the input, in order of selection (descending score).

    Raises:
        InputError: shapes that do not fit, values that are not finite, an unknown method, sigma <= 0.
    """
    segments = np.asarray(segments, dtype=np.float64).reshape(-1, 2)
    scores = np.asarray(scores, dtype=np.float64)
    _check(segments, scores, method, sigma)
    limit = len(scores) if max_segments is None else max_segments

    # The segments still to be picked, as compact columns that shrink together.
    index = np.arange(len(scores))
    start, end, score = segments[:, 0], segments[:, 1], scores.copy()
    length = end - start + _EPSILON
    picked: list[int] = []
    picked_scores: list[float] = []
    while len(index) and len(picked) < limit:
        best = int(score.argmax())
        picked.append(int(index[best]))
        picked_scores.append(float(score[best]))
        overlap = (np.minimum(end, end[best]) - np.maximum(start, start[best])).clip(min=0.0)
        iou = overlap / (length + length[best] - overlap)
        if method == "gaussian":
            score = score * np.exp(-(iou**2) / sigma)
        elif method == "linear":
            score = np.where(iou >= iou_threshold, score * (1.0 - iou), score)
        keep = score >= min_score
        if method == "hard":
            keep &= iou < iou_threshold
        keep[best] = False
        index, start, end, length, score = index[keep], start[keep], end[keep], length[keep], score[keep]
    indices = np.array(picked, dtype=np.int64)
    return segments[indices], np.array(picked_scores), indices


def _check(segments: NDArray[np.float64], scores: NDArray[np.float64], method: str, sigma: float) -> None:
    if scores.shape != (len(segments),):
        raise InputError("soft_nms", expected=f"{len(segments)} scores", found=f"shape {scores.shape}")
    if not (np.isfinite(segments).all() and np.isfinite(scores).all()):
        raise InputError("soft_nms", expected="finite segments and scores", found="NaN or infinity")
    if method not in ("gaussian", "linear", "hard"):
        raise InputError("soft_nms", expected="method gaussian, linear or hard", found=repr(method))
    if sigma <= 0:
        raise InputError("soft_nms", expected="sigma > 0", found=str(sigma))
