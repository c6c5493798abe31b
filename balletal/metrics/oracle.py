"""The best that a grid of features allows: what a perfect model would detect that can only speak in steps of it.

The tables are detections like any others, to be measured with :func:`balletal.metrics.detection.evaluate_detections`.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from balletal.errors import InputError
from balletal.labels import LabelSet
from balletal.metrics.frames import frame_labels, label_runs
from balletal.segments import segment_table


def oracle_runs(
    ground_truth: pd.DataFrame, labels: LabelSet, durations: Mapping[str, float], step_s: float
) -> pd.DataFrame:
    """Perfect labels of the cells of a grid, merged into runs: the cap of frame-wise labelling.

    A cell has the label of the segment that holds its middle. Neighbours of one label become one detection, so that
    a series of pirouettes is one long one.

    Args:
        ground_truth: segment table.
        durations: video id -> seconds, for every video of ``ground_truth``.
        step_s: seconds from one cell to the next; the grid begins at 0.

    Returns:
        Segment table with ``score`` 1.

    Raises:
        InputError: a step that is not above 0, a video without a duration, a label outside ``labels``.
    """
    _check(step_s)
    tables = []
    for video_id, segments in ground_truth.groupby("video_id", sort=False):
        if video_id not in durations:
            raise InputError(f"video {video_id}", expected="a duration", found="none")
        cells = np.ceil(durations[video_id] / step_s)  # the last one may be in part
        runs = label_runs(frame_labels(segments, labels, cells * step_s, 1 / step_s))
        names = [labels.labels[c] for c in runs[:, 0]]
        tables.append(segment_table(str(video_id), runs[:, 1] * step_s, runs[:, 2] * step_s, names))
    return pd.concat(tables or [segment_table()], ignore_index=True).assign(score=1.0)


def oracle_instances(ground_truth: pd.DataFrame, step_s: float) -> pd.DataFrame:
    """Every segment with both ends rounded to a grid; one that becomes empty is lost: the cap of instances kept apart.

    Args:
        ground_truth: segment table.
        step_s: as in :func:`oracle_runs`.

    Returns:
        Segment table with ``score`` 1.

    Raises:
        InputError: a step that is not above 0.
    """
    _check(step_s)
    start, end = (np.round(ground_truth[side].to_numpy(np.float64) / step_s) * step_s for side in ("start", "end"))
    table = segment_table(list(ground_truth["video_id"]), start, end, list(ground_truth["label"]))
    return table[end > start].reset_index(drop=True).assign(score=1.0)


def _check(step_s: float) -> None:
    if not (np.isfinite(step_s) and step_s > 0):
        raise InputError("grid step", expected="seconds above 0", found=str(step_s))
