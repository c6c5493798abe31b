"""Frame-wise and segmental metrics on a 25 fps grid: accuracy, F1@k and edit score as in MS-TCN's evaluation.

Frame labels are class ids, -1 is background. Every score is in [0, 1].
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from balletal.errors import InputError
from balletal.labels import LabelSet

BACKGROUND = -1
GRID_FPS = 25.0


def frame_labels(segments: pd.DataFrame, labels: LabelSet, duration: float, fps: float = GRID_FPS) -> NDArray[np.int64]:
    """The class of each frame of one video.

    Frame n spans [n, n + 1) / fps; it belongs to the segments that hold its middle. Where several do, the shortest
    wins, or, in a table with ``score``, the highest score.

    Args:
        segments: segment table of one video.
        duration: seconds.

    Returns:
        (round(duration * fps),) class ids, -1 where there is no step.

    Raises:
        InputError: a label outside ``labels``, or a duration that is not finite.
    """
    if not (np.isfinite(duration) and duration >= 0):
        raise InputError("frame labels", expected="a duration in seconds", found=str(duration))
    unknown = sorted(set(segments["label"]) - set(labels.labels))
    if unknown:
        raise InputError("frame labels", expected=f"labels of {labels.name}", found=", ".join(unknown))
    frames = np.full(round(duration * fps), BACKGROUND)
    start, end = segments["start"].to_numpy(np.float64), segments["end"].to_numpy(np.float64)
    first = np.ceil(start * fps - 0.5).clip(0, len(frames)).astype(int)
    stop = np.ceil(end * fps - 0.5).clip(0, len(frames)).astype(int)
    # The winner is painted last.
    precedence = segments["score"].to_numpy(np.float64) if "score" in segments else start - end
    classes = [labels.index[label] for label in segments["label"]]
    for i in np.argsort(precedence, kind="stable"):
        frames[first[i] : stop[i]] = classes[i]
    return frames


def frame_accuracy(prediction: NDArray[np.int64], truth: NDArray[np.int64]) -> dict[str, float | None]:
    """Share of frames with the right class.

    Args:
        prediction, truth: (n,) frame labels, of any number of videos one after the other.

    Returns:
        ``all``: over all frames; ``foreground``: over those where ``truth`` has a step. None where there is no frame.

    Raises:
        InputError: different lengths.
    """
    if len(prediction) != len(truth):
        raise InputError("frame accuracy", expected=f"{len(truth)} frames", found=str(len(prediction)))
    right, step = prediction == truth, truth != BACKGROUND
    return {
        "all": float(right.mean()) if len(right) else None,
        "foreground": float(right[step].mean()) if step.any() else None,
    }


def f1_overlap(
    predictions: Sequence[NDArray[np.int64]],
    truths: Sequence[NDArray[np.int64]],
    overlaps: Sequence[float] = (0.1, 0.25, 0.5),
) -> dict[str, float]:
    """Segmental F1: runs of one class against runs of one class, counts pooled over the videos.

    By its place in time, each predicted run is right when its best true run of the same class overlaps it enough and
    was not found before. The overlap is the intersection over the hull of both, as in the original.

    Args:
        predictions, truths: frame labels of each video.

    Returns:
        {"10": F1 at 0.1, "25": .., "50": ..}; 0 when nothing is right.
    """
    right, predicted, true = np.zeros(len(overlaps)), 0, 0
    for prediction, truth in zip(predictions, truths, strict=True):
        p, t = label_runs(prediction), label_runs(truth)
        predicted, true = predicted + len(p), true + len(t)
        if not (len(p) and len(t)):
            continue
        intersection = np.minimum(p[:, None, 2], t[None, :, 2]) - np.maximum(p[:, None, 1], t[None, :, 1])
        hull = np.maximum(p[:, None, 2], t[None, :, 2]) - np.minimum(p[:, None, 1], t[None, :, 1])
        iou = intersection / hull * (p[:, None, 0] == t[None, :, 0])
        best, value = iou.argmax(axis=1), iou.max(axis=1)
        # A true run counts once, whichever of the predicted runs that prefer it comes first.
        right += [len(np.unique(best[value >= overlap])) for overlap in overlaps]
    # 2PR / (P + R) with P = right / predicted and R = right / true.
    f1 = 2 * right / (predicted + true) if predicted + true else right
    return {f"{100 * overlap:g}": float(value) for overlap, value in zip(overlaps, f1, strict=True)}


def frame_metrics(predictions: Sequence[NDArray[np.int64]], truths: Sequence[NDArray[np.int64]]) -> dict[str, Any]:
    """All frame measures of a set of videos.

    Args:
        predictions, truths: one array a video, of :func:`frame_labels`.

    Returns:
        JSON-able: ``accuracy`` and ``foreground_accuracy`` over all frames, ``background``, the share of frames without
        a step (each None where there are none), ``f1`` {"10", "25", "50"}, ``edit`` (mean over the videos).
    """
    truth = np.concatenate(truths)
    accuracy = frame_accuracy(np.concatenate(predictions), truth)
    return {
        "accuracy": accuracy["all"],
        "foreground_accuracy": accuracy["foreground"],
        "background": float(np.mean(truth == BACKGROUND)) if len(truth) else None,
        "f1": f1_overlap(predictions, truths),
        "edit": float(np.mean([edit_score(p, t) for p, t in zip(predictions, truths, strict=True)])),
    }


def edit_score(prediction: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """1 - Levenshtein distance of the two orders of steps / the longer one; times and background do not count.

    Two videos without any step agree: 1.
    """
    p, t = label_runs(prediction)[:, 0], label_runs(truth)[:, 0]
    if not (len(p) or len(t)):
        return 1.0
    columns = np.arange(len(t) + 1)
    row = columns.copy()
    for i, label in enumerate(p, 1):
        best = np.empty_like(row)
        best[0] = i
        best[1:] = np.minimum(row[1:] + 1, row[:-1] + (t != label))
        # Insertions run along the row: D[j] = min over k <= j of best[k] + (j - k).
        row = np.minimum.accumulate(best - columns) + columns
    return float(1.0 - row[-1] / max(len(p), len(t)))


def label_runs(frames: NDArray[np.int64]) -> NDArray[np.int64]:
    """Runs of one class, background left out: (R, 3) class id, first frame, one past the last."""
    change = np.flatnonzero(np.diff(frames)) + 1
    first = np.concatenate([[0], change])[: len(frames)].astype(int)
    stop = np.concatenate([change, [len(frames)]])[: len(first)].astype(int)
    runs = np.stack([frames[first], first, stop], axis=1)
    return runs[runs[:, 0] != BACKGROUND]
