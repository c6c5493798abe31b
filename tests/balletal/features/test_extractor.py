from collections.abc import Callable, Iterator
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
from balletal.features.extractor import Extractor, spec_for
from balletal.features.units import FRAMES_PER_UNIT, read_unit
from balletal.video.clips import VideoSegment, analysis_frames, plan_segments
from balletal.video.decode import Frames, read_frames
from balletal.video.probe import probe
from balletal.video.track import CropTrack


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """These networks are too small to share out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_weights(path: Path, channels: int) -> Path:
    torch.manual_seed(channels)
    model = InceptionI3D(channels, num_classes=0)
    for layer in model.modules():
        if isinstance(layer, nn.Conv3d):  # the default shrinks what passes through, here to nothing
            nn.init.kaiming_normal_(layer.weight)
    safetensors.torch.save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_weights(tmp_path_factory.mktemp("weights") / "random.safetensors", 3)


@pytest.fixture(scope="module")
def flow_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_weights(tmp_path_factory.mktemp("weights") / "flow.safetensors", 2)


@pytest.fixture(scope="module")
def spec(weights: Path) -> FeatureSpec:
    return spec_for(
        "i3d-rgb", weights=weights, window=8, stride=3, size=32, dtype="float32", mode="windowed", crop="center"
    )


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
    monkeypatch.setattr(extractor, "batch", 4)
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


def test_units_of_a_video_are_the_video(
    extractor: Extractor, spec: FeatureSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    units = [(unit, read_unit(unit, spec)) for unit in plan_segments("a", info, spec, 4)]
    rows = [extractor.extract_unit(read, unit.clips) for unit, read in units]
    assert [len(row) for row in rows] == [4, 4, 4, 3]
    np.testing.assert_array_equal(np.concatenate(rows), whole)
    assert all(read.damage is None for _, read in units)
    monkeypatch.setitem(FRAMES_PER_UNIT, "windowed", 17)
    np.testing.assert_array_equal(extractor.extract_video(info).features, whole)
    # Clips that a container promised and the video does not have: only a whole video may be filled up.
    assert extractor.extract_unit(read_unit(VideoSegment("a", path, 4, 15, 4, 3.0), spec), 4).shape == (0, 1024)


def test_other_weights_than_the_specs_are_refused(spec: FeatureSpec, weights: Path) -> None:
    with pytest.raises(SpecMismatchError, match=f"{'0' * 64}.*{spec.weights}"):
        Extractor(spec.replace(weights="0" * 64), weights)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 7}, "at least 8 frames"),
        ({"backbone": "i4d"}, "one of i3d-rgb-kinetics400"),
        ({"weights": None}, "a file of weights"),
        ({"mode": "dense", "window": 12}, "a multiple of 8 frames in dense mode"),
        ({"mode": "dense", "stride": 6}, "2, 4 or a multiple of 8 frames in dense mode"),
        ({"backbone": "i3d-rgb+flow"}, "weights for rgb and flow, in this order"),
    ],
)
def test_specs_that_cannot_be_made(weights: Path, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        spec_for(**({"backbone": "i3d-rgb", "weights": weights} | changes))


def test_imported_features_are_not_made(spec: FeatureSpec, weights: Path) -> None:
    with pytest.raises(InputError, match="features that this extractor makes"):
        Extractor(spec.replace(mode="imported"), weights)


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> str:
    """203 frames at 25 fps: no multiple of anything."""
    path = str(tmp_path_factory.mktemp("dense") / "long.mp4")
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(203):
            picture = np.random.default_rng(k).integers(0, 255, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("stride", "window"), [(2, 8), (4, 16), (8, 24), (16, 16)])
def test_dense_units_are_the_whole_video(
    spec: FeatureSpec, weights: Path, long_video: str, stride: int, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = spec.replace(mode="dense", stride=stride, window=window)
    extractor = Extractor(dense, weights, device="cpu")
    frames = read_frames(long_video, 25, 0, 203, size=32).pixels
    whole = extractor.extract(frames)
    assert len(whole) == (203 - window) // stride + 1  # the grid of windowed features
    for frames_per_unit in (40, 57, 150):
        monkeypatch.setitem(FRAMES_PER_UNIT, "dense", frames_per_unit)
        found = extractor.extract_video(probe(long_video)).features
        np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-4)


def test_dense_features_are_the_means_of_the_networks_steps(
    spec: FeatureSpec, weights: Path, frames: np.ndarray
) -> None:
    """24 frames are three whole steps; a fourth follows from filling the last one up."""
    model = InceptionI3D(num_classes=0)
    model.load_state_dict(safetensors.torch.load_file(weights))
    x = torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 127.5 - 1
    with torch.inference_mode():
        steps = model.eval().maps(x).mean(dim=(0, 3, 4)).T
    extractor = Extractor(spec.replace(mode="dense", window=16, stride=8), weights, device="cpu")
    np.testing.assert_allclose(extractor.extract(frames), (steps[:-1] + steps[1:]) / 2, rtol=1e-4, atol=1e-4)
    filled = np.concatenate([frames, np.repeat(frames[-1:], 8, axis=0)])
    np.testing.assert_allclose(
        extractor.extract(np.concatenate([frames, frames[-1:]])), extractor.extract(filled)[:2], rtol=1e-4, atol=1e-4
    )
    short = extractor.extract(frames[:5])  # shorter than a window: one feature, as in windowed mode
    assert short.shape == (1, 1024)
    assert extractor.extract(frames[:0]).shape == (0, 1024)


class TestStreams:
    @pytest.mark.parametrize("mode", ["windowed", "dense"])
    def test_are_concatenated_in_the_backbones_order(
        self, spec: FeatureSpec, weights: Path, flow_weights: Path, long_video: str, mode: str
    ) -> None:
        made = {}
        for name, of in {
            "i3d-rgb": [weights],
            "i3d-flow": [flow_weights],
            "i3d-rgb+flow": [weights, flow_weights],
            "i3d-flow+rgb": [flow_weights, weights],
        }.items():
            one = spec_for(name, weights=of, window=16, stride=8, size=32, dtype="float32", mode=mode, crop="center")  # type: ignore[arg-type]
            made[name] = Extractor(one, of, "cpu").extract_video(probe(long_video)).features
            assert one.flow == ("dis" if "flow" in name else "")
        rgb, flow = made["i3d-rgb"], made["i3d-flow"]
        assert np.abs(rgb - flow).max() > 1e-3
        np.testing.assert_array_equal(made["i3d-rgb+flow"], np.hstack([rgb, flow]))
        np.testing.assert_array_equal(made["i3d-flow+rgb"], np.hstack([flow, rgb]))

    @pytest.mark.parametrize("mode", ["windowed", "dense"])
    def test_flow_does_not_depend_on_the_cuts(
        self, flow_weights: Path, long_video: str, mode: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec = spec_for(
            "i3d-flow", weights=flow_weights, window=16, stride=8, size=32, dtype="float32", mode=mode, crop="center"
        )  # type: ignore[arg-type]
        extractor = Extractor(spec, flow_weights, "cpu")
        whole = extractor.extract_video(probe(long_video)).features
        monkeypatch.setitem(FRAMES_PER_UNIT, mode, 60)
        np.testing.assert_allclose(extractor.extract_video(probe(long_video)).features, whole, rtol=1e-4, atol=1e-4)

    def test_one_picture_does_not_move(self, flow_weights: Path, frames: np.ndarray) -> None:
        spec = spec_for(
            "i3d-flow", weights=flow_weights, window=8, size=32, dtype="float32", mode="windowed", crop="center"
        )
        extractor = Extractor(spec, flow_weights, "cpu")
        still = np.full((7, 32, 32, 2), 128, np.uint8)
        np.testing.assert_array_equal(
            extractor.extract(frames[:1]), extractor.extract(np.repeat(frames[:1], 8, axis=0), flow=still)
        )
        with pytest.raises(InputError, match="7 fields for 8 frames, found 3"):
            extractor.extract(frames[:8], flow=still[:3])

    def test_each_stream_wants_its_own_channels(self, weights: Path, flow_weights: Path) -> None:
        with pytest.raises(InputError, match="weights of the flow stream"):
            spec_for("i3d-flow", weights=weights)
        with pytest.raises(InputError, match="weights of the RGB stream"):
            spec_for("i3d-rgb+flow", weights=[flow_weights, weights])


class TestMirror:
    def test_features_are_those_of_flipped_pictures(
        self, spec: FeatureSpec, extractor: Extractor, weights: Path, frames: np.ndarray
    ) -> None:
        unit = VideoSegment("a", "a.mp4", 0, 0, 2, 1.0)
        mirrored = read_unit(unit, spec.replace(mirror=True), read=_showing(frames))
        flipped = read_unit(unit, spec, read=_showing(frames[:, :, ::-1]))
        found = Extractor(spec.replace(mirror=True), weights, "cpu").extract_unit(mirrored, 2)
        np.testing.assert_array_equal(found, extractor.extract_unit(flipped, 2))
        plain = extractor.extract_unit(read_unit(unit, spec, read=_showing(frames)), 2)
        assert np.abs(found - plain).max(axis=1).min() > 1e-3

    @pytest.mark.parametrize("mode", ["windowed", "dense"])
    def test_flow_is_that_of_flipped_pictures(self, spec: FeatureSpec, frames: np.ndarray, mode: str) -> None:
        spec = spec.replace(streams=("rgb", "flow"), flow="dis", mode=mode)
        unit = VideoSegment("a", "a.mp4", 0, 0, 2, 1.0)
        mirrored = read_unit(unit, spec.replace(mirror=True), read=_showing(frames))
        flipped = read_unit(unit, spec, read=_showing(frames[:, :, ::-1]))
        np.testing.assert_array_equal(mirrored.pixels, flipped.pixels)
        assert mirrored.flow is not None
        np.testing.assert_array_equal(mirrored.flow, flipped.flow)

    def test_the_crop_is_that_of_the_plain_video(self, spec: FeatureSpec, long_video: str) -> None:
        n = 8
        where = np.tile(np.float32([0.3, 0.5]), (n, 1))  # left of the middle
        side, shot = np.full(n, 0.6, np.float32), np.zeros(n, np.int32)
        track = CropTrack(25, where, side, np.ones(n, bool), shot)
        dancer = spec.replace(crop="dancer")
        unit = VideoSegment("a", long_video, 0, 0, 1, 8.0)
        plain, mirrored = (read_unit(unit, one, track).pixels for one in (dancer, dancer.replace(mirror=True)))
        np.testing.assert_array_equal(mirrored, plain[:, :, ::-1])

    def test_it_is_another_spec_and_plain_ones_stay_what_they_were(self, spec: FeatureSpec) -> None:
        mirrored = spec.replace(mirror=True)
        assert mirrored.spec_id != spec.spec_id
        assert "mirror" not in spec.to_dict()
        assert FeatureSpec.from_dict(mirrored.to_dict()) == mirrored
        assert "mirrored" in str(mirrored)
        assert "mirrored" not in str(spec)


def _showing(pictures: np.ndarray) -> Callable[..., Frames]:
    """A decoder of a video of these pictures."""
    return lambda uri, fps, start, stop, **_: Frames(np.ascontiguousarray(pictures[start:stop]))


def test_a_network_that_cannot_be_compiled_runs_without(
    spec: FeatureSpec,
    weights: Path,
    frames: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", broken)
    found = Extractor(spec, weights, "cpu", compiled=True).extract(frames)
    assert "no compiler" in caplog.text
    np.testing.assert_array_equal(found, Extractor(spec, weights, "cpu").extract(frames))
