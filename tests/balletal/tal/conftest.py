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


def make_sequences(videos: int, seed: int = 0, classes: int = 2, noise: float = 0.1) -> list[LabelledSequence]:
    """Videos whose features say plainly where a step of which class is."""
    rng = np.random.default_rng(seed)
    made = []
    for v in range(videos):
        n = int(rng.integers(20, 40))
        middle = (np.arange(n) * 8 + 8) / 25
        starts = np.arange(1.0, middle[-1] - 2, 3.0) + rng.uniform(0, 0.5)
        segments = np.stack([starts, starts + 1.2], -1)
        ids = rng.integers(0, classes, len(segments))
        features = rng.normal(0, noise, (n, 6)).astype(np.float32)
        for (start, end), c in zip(segments, ids, strict=True):
            inside = (middle >= start) & (middle <= end)
            features[inside, c] += 2
            features[inside, 3] += middle[inside] - start
            features[inside, 4] += end - middle[inside]
        made.append(LabelledSequence(f"v{v}", features, segments, ids.astype(np.int64), float(middle[-1] + 0.32)))
    return made


@pytest.fixture
def sequences() -> list[LabelledSequence]:
    return make_sequences(8)
