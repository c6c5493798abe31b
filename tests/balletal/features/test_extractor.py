from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from balletal.backbones.i3d import InceptionI3D
from balletal.backbones.spec import FeatureSpec
from balletal.errors import InputError, SpecMismatchError
from balletal.features import extractor as module
from balletal.features.extractor import Extractor, spec_for
from balletal.video.clips import VideoSegment, analysis_frames, plan_segments
from balletal.video.decode import read_frames
from balletal.video.probe import probe


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """These networks are too small to share out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(2)
    model = InceptionI3D(num_classes=0)
    for layer in model.modules():
        if isinstance(layer, nn.Conv3d):  # the default shrinks what passes through, here to nothing
            nn.init.kaiming_normal_(layer.weight)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    safetensors.torch.save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def spec(weights: Path) -> FeatureSpec:
    return spec_for("i3d-rgb", weights=weights, window=8, stride=3, size=32, dtype="float32")


@pytest.fixture(scope="module")
def extractor(spec: FeatureSpec, weights: Path) -> Extractor:
    return Extractor(spec, weights, device="cpu")


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)


def test_features_are_the_networks(extractor: Extractor, weights: Path, frames: np.ndarray) -> None:
    model = InceptionI3D(num_classes=0)
    model.load_state_dict(safetensors.torch.load_file(weights))
    clips = torch.stack([torch.from_numpy(frames[k : k + 8]) for k in range(0, 17, 3)])
    with torch.inference_mode():
        expected = model.eval().features(clips.permute(0, 4, 1, 2, 3) / 127.5 - 1)
    found = extractor.extract(frames)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_where_a_video_is_cut_changes_nothing(spec: FeatureSpec, weights: Path, frames: np.ndarray, dtype: str) -> None:
    extractor = Extractor(spec.replace(dtype=dtype), weights, device="cpu")
    whole = extractor.extract(frames)
    np.testing.assert_array_equal(extractor.extract(frames[6:]), whole[2:])
    np.testing.assert_array_equal(extractor.extract(frames[3:11]), whole[1:2])
    np.testing.assert_array_equal(extractor.extract(frames, clips=4), whole[:4])


def test_bfloat16_is_near_float32(extractor: Extractor, spec: FeatureSpec, weights: Path, frames: np.ndarray) -> None:
    exact, fast = extractor.extract(frames), Extractor(spec.replace(dtype="bfloat16"), weights, "cpu").extract(frames)
    cosine = (exact * fast).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(fast, axis=1)
    assert cosine.min() > 0.999
    assert not np.array_equal(exact, fast)


def test_larger_batches_are_filled_up(
    extractor: Extractor, frames: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = extractor.extract(frames)
    monkeypatch.setattr(module, "_BATCH", {"cpu": 4})
    np.testing.assert_allclose(extractor.extract(frames), one, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(extractor.extract(frames[12:]), extractor.extract(frames)[4:])


def test_short_and_empty_runs(extractor: Extractor, frames: np.ndarray) -> None:
    filled = np.concatenate([frames[:5], np.repeat(frames[4:5], 3, axis=0)])
    np.testing.assert_array_equal(extractor.extract(frames[:5]), extractor.extract(filled))
    assert extractor.extract(frames[:0]).shape == (0, 1024)


def test_frames_of_another_kind_are_refused(extractor: Extractor, frames: np.ndarray) -> None:
    for bad in (frames[:, :16], frames.astype(np.float32), frames[0]):
        with pytest.raises(InputError, match=r"\(n, 32, 32, 3\) uint8"):
            extractor.extract(bad)


def test_units_of_a_video_are_the_video(extractor: Extractor, spec: FeatureSpec, tmp_path: Path) -> None:
    path = str(tmp_path / "a.mp4")
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(60):
            picture = np.random.default_rng(k % 5).integers(0, 255, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    info = probe(path)
    whole = extractor.extract(read_frames(path, 25, 0, analysis_frames(info.duration, 25), size=32).pixels)
    assert len(whole) == 15
    rows = [extractor.extract_segment(unit) for unit in plan_segments("a", info, spec, 4)]
    assert [(row.segment, row.first_clip, len(row.features)) for row in rows] == [
        (0, 0, 4),
        (1, 4, 4),
        (2, 8, 4),
        (3, 12, 3),
    ]
    np.testing.assert_array_equal(np.concatenate([row.features for row in rows]), whole)
    assert all(row.damage is None for row in rows)
    # Clips that a container promised and the video does not have: only a whole video may be filled up.
    assert extractor.extract_segment(VideoSegment("a", path, 4, 15, 4)).features.shape == (0, 1024)


def test_other_weights_than_the_specs_are_refused(spec: FeatureSpec, weights: Path) -> None:
    with pytest.raises(SpecMismatchError, match=f"{'0' * 64}.*{spec.weights}"):
        Extractor(spec.replace(weights="0" * 64), weights)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 7}, "at least 8 frames"),
        ({"backbone": "i4d"}, "one of i3d-rgb-kinetics400"),
        ({"weights": None}, "a file of weights"),
        ({"crop": "dancer"}, "center or full"),
    ],
)
def test_specs_that_cannot_be_made(weights: Path, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        spec_for(**({"backbone": "i3d-rgb", "weights": weights} | changes))


def test_imported_features_are_not_made(spec: FeatureSpec, weights: Path) -> None:
    with pytest.raises(InputError, match="windowed features of rgb"):
        Extractor(spec.replace(mode="imported"), weights)
