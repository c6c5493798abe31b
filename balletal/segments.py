"""Segment tables and interval arithmetic, in seconds.

A **segment table** is a pandas DataFrame with one row a segment: ``video_id`` (str), ``start`` and ``end``
(float64 seconds on the video's presentation clock), ``label`` (str), and for detections ``score`` in [0, 1].
Annotations and detections alike are such tables; further columns are allowed and kept.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

SEGMENT_COLUMNS = ("video_id", "start", "end", "label")
DETECTION_COLUMNS = (*SEGMENT_COLUMNS, "score")


def segment_table(
    video_id: ArrayLike = (),
    start: ArrayLike = (),
    end: ArrayLike = (),
    label: ArrayLike = (),
    **more: ArrayLike,
) -> pd.DataFrame:
    """A segment table from columns (a scalar ``video_id`` or ``label`` is repeated)."""
    start = np.asarray(start, dtype=np.float64)
    n = len(start)
    columns: dict[str, object] = {
        "video_id": _strings(video_id, n),
        "start": start,
        "end": np.asarray(end, dtype=np.float64),
        "label": _strings(label, n),
    }
    return pd.DataFrame(columns | {name: np.asarray(values) for name, values in more.items()})


def _strings(values: ArrayLike, n: int) -> pd.Series:
    repeated = [values] * n if isinstance(values, str) else list(np.asarray(values, dtype=object))
    return pd.Series(repeated, dtype="str")


def tiou(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Temporal intersection over union of every segment in ``a`` with every segment in ``b``.

    Args:
        a: (N, 2) seconds, [start, end].
        b: (M, 2) seconds.

    Returns:
        (N, M) in [0, 1]; 0/0 (two empty segments at one point) is 0.
    """
    a = np.asarray(a, dtype=np.float64).reshape(-1, 2)
    b = np.asarray(b, dtype=np.float64).reshape(-1, 2)
    intersection = np.minimum(a[:, None, 1], b[None, :, 1]) - np.maximum(a[:, None, 0], b[None, :, 0])
    intersection = intersection.clip(min=0.0)
    union = (a[:, 1] - a[:, 0])[:, None] + (b[:, 1] - b[:, 0])[None, :] - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
