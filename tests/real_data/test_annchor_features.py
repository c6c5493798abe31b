"""The released AnnChor features, as they are."""

from pathlib import Path

import numpy as np
import pytest

from balletal.features.released import read_npy, released_spec
from balletal.features.store import FeatureStore

pytestmark = pytest.mark.real_data


def test_float64_as_released_and_float16_give_the_same_store(shared: Path, tmp_path: Path) -> None:
    features = shared / "annchor" / "Features"
    spec = released_spec(fps=25, window=64, stride=64)
    store = FeatureStore.create(str(tmp_path), spec)
    names = sorted(path.name for path in (features / "as_released_float64").glob("*.npy"))
    assert len(names) == 3
    for name in names:
        released = read_npy(str(features / "as_released_float64" / name), spec)
        assert released.dtype == np.float64
        store.write_unit(name, 0, 0, released)
        video = store.read(name)
        np.testing.assert_array_equal(video.features, read_npy(str(features / "i3d_features" / name), spec))
        np.testing.assert_allclose(video.features, released, rtol=2**-11, atol=2**-25)
        np.testing.assert_allclose(video.start_s, np.arange(len(released)) * 2.56)


def test_there_are_816_videos_and_23695_features(shared: Path) -> None:
    spec = released_spec(fps=25, window=64, stride=64)
    paths = sorted((shared / "annchor" / "Features" / "i3d_features").glob("*.npy"))
    assert len(paths) == 816
    assert sum(len(read_npy(str(path), spec)) for path in paths) == 23695
