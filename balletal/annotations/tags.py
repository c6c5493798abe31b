"""Tags: annotations that run beside steps, as a property of the steps."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

# The share of a step that a tag has to cover. Annotators draw a tag over a stretch of steps: of AnnChor's steps that
# meet a tag, 96 % lie wholly inside it, so that little depends on this.
_COVERED = 0.5


def step_tags(steps: pd.DataFrame, tags: pd.DataFrame, names: Sequence[str]) -> pd.Series:
    """Which tags go with each step: those of which one segment covers at least half of it.

    Args:
        steps: segment table.
        tags: segment table (``Annotations.tags``); labels that are not in ``names`` are passed over.
        names: of the tags.

    Returns:
        A list of names, in their order, for each step: the column ``tags`` that a segment table may have.
    """
    found = np.zeros((len(steps), len(names)), dtype=bool)
    start, end = (steps[column].to_numpy(np.float64)[:, None] for column in ("start", "end"))
    by_video = steps.groupby("video_id").indices
    for (video_id, name), mine in tags[tags["label"].isin(names)].groupby(["video_id", "label"]):
        rows = by_video.get(video_id, np.zeros(0, np.int64))
        shared = np.minimum(end[rows], mine["end"].to_numpy()) - np.maximum(start[rows], mine["start"].to_numpy())
        found[rows, names.index(name)] = (shared >= _COVERED * (end - start)[rows]).any(1)
    lists = [[name for name, has in zip(names, row, strict=True) if has] for row in found]
    return pd.Series(lists, index=steps.index, dtype=object)
