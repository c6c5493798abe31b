"""Random tables that tests of several measures share."""

import numpy as np
import pandas as pd

from balletal.segments import segment_table


def random_tables(videos, per_video, found_per_video, classes, seed):
    """Ground truth, and detections of which some lie near a true segment of their label."""
    rng = np.random.default_rng(seed)

    def table(n, **more):
        start = rng.uniform(0, 60, n)
        names = [f"v{i}" for i in rng.integers(0, videos, n)]
        return segment_table(
            names, start, start + rng.exponential(2, n), [f"c{i}" for i in rng.integers(0, classes, n)], **more
        )

    truth = table(videos * per_video)
    noise = table(videos * found_per_video)
    near = truth.sample(frac=2.0, replace=True, random_state=seed).reset_index(drop=True)
    near[["start", "end"]] += rng.normal(0, 0.4, (len(near), 2))
    found = pd.concat([noise, near], ignore_index=True)
    return truth, found.assign(score=rng.uniform(0, 1, len(found)))


def iou(a, b):
    overlap = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (a[1] - a[0]) + (b[1] - b[0]) - overlap
    return overlap / union if union > 0 else 0.0
