"""A small localization problem with a known answer."""

import numpy as np
import pytest

from balletal.backbones.spec import FeatureSpec
from balletal.tal.sequences import LabelledSequence

SPEC = FeatureSpec(
    backbone="test", weights="unknown", streams=("rgb",), fps=25, window=16, stride=8, size=0, crop="center",
    mode="imported", dim=6,
)  # fmt: skip


@pytest.fixture
def spec() -> FeatureSpec:
    return SPEC


def make_sequences(
    videos: int, seed: int = 0, classes: int = 2, noise: float = 0.1, tags: int = 0
) -> list[LabelledSequence]:
    """Videos whose features say plainly where a step of which class is, and whether its one tag goes with it."""
    rng = np.random.default_rng(seed)
    made = []
    for v in range(videos):
        n = int(rng.integers(20, 40))
        middle = (np.arange(n) * 8 + 8) / 25
        starts = np.arange(1.0, middle[-1] - 2, 3.0) + rng.uniform(0, 0.5)
        segments = np.stack([starts, starts + 1.2], -1)
        ids = rng.integers(0, classes, len(segments))
        tagged = rng.random((len(segments), tags)) < 0.4
        features = rng.normal(0, noise, (n, 6)).astype(np.float32)
        for (start, end), c, tag in zip(segments, ids, tagged, strict=True):
            inside = (middle >= start) & (middle <= end)
            features[inside, c] += 2
            features[inside, 3] += middle[inside] - start
            features[inside, 4] += end - middle[inside]
            features[inside, 5] += 2 * tag.sum()
        duration = float(middle[-1] + 0.32)
        made.append(LabelledSequence(f"v{v}", features, segments, ids.astype(np.int64), tagged, duration))
    return made


@pytest.fixture
def sequences() -> list[LabelledSequence]:
    return make_sequences(8)
