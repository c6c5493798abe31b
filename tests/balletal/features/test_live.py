"""Clips of pictures that come one by one, against those of the file that holds the same pictures."""

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from balletal.backbones.spec import FeatureSpec
from balletal.errors import InputError, VideoError
from balletal.features.extractor import Extractor, spec_for
from balletal.features.live import GAP_S, Clips, LiveClips
from balletal.features.units import UnitFrames
from balletal.video.clips import clip_count
from balletal.video.decode import read_frames
from balletal.video.jpeg import decode_jpeg
from balletal.video.picture import Crop
from balletal.video.probe import probe, timeline
from tests.balletal.features.test_extractor import random_weights
from tests.balletal.tal.conftest import SPEC

WIDTH, HEIGHT, RATE = 64, 48, 30
MS = Fraction(1, 1000)


def spec_of(crop: Crop = "center", **changes) -> FeatureSpec:
    spec = SPEC.replace(fps=25.0, window=16, stride=8, size=32, crop=crop, mode="windowed", streams=("rgb",))
    return spec.replace(tracker="motion-1" if crop == "dancer" else "", **changes)


def picture(n: int) -> np.ndarray:
    """A square that goes its way before a plain wall, and a number in grey levels."""
    image = np.full((HEIGHT, WIDTH, 3), 30 + n % 100, np.uint8)
    left = abs(n % 100 - 50)
    image[10:30, left : left + 12] = 220
    return image


def jpeg(n: int) -> bytes:
    return cv2.imencode(".jpg", picture(n))[1].tobytes()


def decoded(data: bytes) -> av.VideoFrame:
    return decode_jpeg(data, WIDTH, HEIGHT)


def live(
    spec: FeatureSpec, pictures: Iterable[tuple[float, bytes]], decode: Callable = decoded, most: int = 8
) -> list[Clips]:
    clips, found = LiveClips(spec, decode, picture=1 / RATE), []
    for time, source in pictures:
        clips.push(time, source)
        while (one := clips.take(most)) is not None:
            found.append(one)
    clips.finish()
    while (one := clips.take(most)) is not None:
        found.append(one)
    assert clips.held == {"frames": 0, "waiting": 0, "track": clips.held["track"]}
    return found


def windows(spec: FeatureSpec, runs: list[Clips]) -> dict[float, np.ndarray]:
    """Each clip's frames by when it begins."""
    return {
        round(start, 6): run.pixels[k * spec.stride :][: spec.window]
        for run in runs
        for k, start in enumerate(run.start_s)
    }


@pytest.fixture
def mjpeg(tmp_path: Path) -> Callable[[list[float]], Path]:
    """A file of :func:`jpeg` pictures as they are, one at each time."""

    def write(times: list[float]) -> Path:
        path = tmp_path / "camera.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mjpeg", rate=RATE)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
            stream.time_base = MS
            for n, time in enumerate(times):
                packet = av.Packet(jpeg(n))
                packet.stream, packet.time_base = stream, MS
                packet.pts = packet.dts = round(time * 1000)
                packet.duration, packet.is_keyframe = 33, True
                container.mux(packet)
        return path

    return write


TIMES = {
    "steady": [n / RATE for n in range(100)],
    "jitter": list(np.cumsum(np.random.default_rng(0).uniform(0.005, 0.09, 80)) - 0.005),
    "missing": [n / RATE for n in range(120) if not 30 <= n < 80],
    "fast": [n / 60 for n in range(150)],
    "short": [n / RATE for n in range(9)],
    "one": [0.0],
}


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize(("crop", "stride"), [("center", 8), ("full", 5), ("center", 20)])
def test_clips_are_those_of_the_file(mjpeg: Callable[..., Path], name: str, crop: Crop, stride: int) -> None:
    times = [round(time - TIMES[name][0], 3) for time in TIMES[name]]
    spec, path = spec_of(crop, stride=stride), mjpeg(times)
    frames = read_frames(str(path), spec.fps, 0, 10_000, crop=crop, size=spec.size).pixels
    count = clip_count(len(frames), spec.window, spec.stride)
    runs = live(spec, ((time, jpeg(n)) for n, time in enumerate(times)))
    found = windows(spec, runs)
    assert list(found) == pytest.approx([k * spec.stride_s for k in range(len(found))])
    assert len(found) == count
    for k, pixels in enumerate(found.values()):
        np.testing.assert_array_equal(pixels, frames[k * spec.stride :][: spec.window])


@pytest.mark.parametrize("most", [1, 3])
def test_pictures_of_a_camera_file_are_taken_as_they_are_decoded(mjpeg: Callable[..., Path], most: int) -> None:
    path = mjpeg(TIMES["steady"])
    spec = spec_of("full")
    with av.open(str(path)) as container:
        shown = [(float(frame.time), frame) for frame in container.decode(video=0)]
    runs = live(spec, shown, decode=lambda frame: frame, most=most)
    assert max(run.count for run in runs) <= most
    frames = read_frames(str(path), spec.fps, 0, 10_000, crop="full", size=spec.size).pixels
    for k, pixels in enumerate(windows(spec, runs).values()):
        np.testing.assert_array_equal(pixels, frames[k * 8 : k * 8 + 16])
    assert timeline(str(path)).end == pytest.approx(100 / RATE, abs=0.01)


def test_features_are_those_of_the_file(mjpeg: Callable[..., Path], tmp_path: Path) -> None:
    weights = str(random_weights(tmp_path / "random.safetensors", 3))
    spec = spec_for("i3d-rgb", weights=weights, window=8, stride=8, size=32, crop="center")
    extractor, times = Extractor(spec, weights, device="cpu"), TIMES["jitter"][:40]
    times = [round(time - times[0], 3) for time in times]
    expected = extractor.extract_video(probe(str(mjpeg(times)))).features
    runs = live(spec, ((time, jpeg(n)) for n, time in enumerate(times)), most=2)
    found = np.concatenate([extractor.extract_unit(UnitFrames.of(run.pixels, spec), run.count) for run in runs])
    assert len(found) > 3
    np.testing.assert_array_equal(found, expected)


def test_with_flow_a_run_has_one_frame_more_where_the_video_goes_on() -> None:
    spec = spec_of(streams=("rgb", "flow"), flow="dis")
    runs = live(spec, ((time, jpeg(n)) for n, time in enumerate(TIMES["steady"])))
    *before, last = runs
    assert all(len(run.pixels) == (run.count - 1) * 8 + 17 for run in before)
    assert len(last.pixels) in ((last.count - 1) * 8 + 16, (last.count - 1) * 8 + 17)
    plain = live(spec_of(), ((time, jpeg(n)) for n, time in enumerate(TIMES["steady"])))
    assert list(windows(spec, runs)) == list(windows(spec_of(), plain))


def test_late_and_repeated_pictures_are_left_out() -> None:
    clips = LiveClips(spec_of(), decoded, picture=1 / RATE)
    assert [clips.push(time, jpeg(0)) for time in (0.0, 0.1, 0.1, 0.05, 0.2)] == [True, True, False, False, True]


def test_a_gap_has_no_clips() -> None:
    spec = spec_of()
    times = [*(n / RATE for n in range(60)), *(10.01 + n / RATE for n in range(60))]
    found = windows(spec, live(spec, ((time, jpeg(n)) for n, time in enumerate(times))))
    before, behind = [start for start in found if start < 5], [start for start in found if start > 5]
    assert before == pytest.approx(np.arange(5) * 0.32)  # five clips fit into two seconds
    assert behind == pytest.approx(np.arange(32, 36) * 0.32)
    # The first frame behind the gap is the picture at its time, 10.24 s.
    assert found[behind[0]][0].min() == pytest.approx(30 + 60 + round(0.23 * RATE), abs=4)
    assert GAP_S < 8


def test_a_bad_picture_changes_nothing() -> None:
    good = [(time, jpeg(n)) for n, time in enumerate(TIMES["steady"])]
    clips = LiveClips(spec_of(), decoded, picture=1 / RATE)
    for n, (time, data) in enumerate(good):
        if n % 7 == 3:
            with pytest.raises(VideoError):
                clips.push(time - 0.01, data[:50])
        clips.push(time, data)
    clips.finish()
    found = windows(spec_of(), iter(clips.take, None))
    for start, pixels in windows(spec_of(), live(spec_of(), good)).items():
        np.testing.assert_array_equal(found[start], pixels)


@pytest.mark.parametrize("gap", [0.0, 5.0])
def test_a_dancer_is_cut_out_as_soon_as_her_square_is_known(gap: float) -> None:
    spec = spec_of("dancer")
    clips = LiveClips(spec, decoded, picture=1 / RATE)
    starts, sources = [], [(n / RATE + (gap if n >= 150 else 0.0), jpeg(n)) for n in range(300)]
    for time, data in sources:
        clips.push(time, data)
        while (run := clips.take()) is not None:
            assert run.pixels.shape[1:] == (32, 32, 3)
            # Close to her: bright pixels are a larger share than of the whole picture, 0.078.
            assert (run.pixels > 180).mean() > 0.09
            starts += list(run.start_s)
        assert not starts or starts[-1] + 2 * spec.stride_s + 0.64 + clips.delay_s >= min(time, 5.0)
    clips.finish()
    while (run := clips.take()) is not None:
        starts += list(run.start_s)
    # Ten seconds; or five, and five more from 10 s on, where clip 32 is the first to begin.
    expected = [*range(14), *range(32, 45)] if gap else range(30)
    assert starts == pytest.approx(np.array(expected) * 0.32)


@pytest.mark.parametrize("crop", ["center", "dancer"])
def test_memory_does_not_grow(crop: Crop) -> None:
    clips = LiveClips(spec_of(crop), decoded, picture=0.12)
    held = []
    for n in range(220):
        clips.push(n * 0.12, jpeg(n))
        while clips.take() is not None:
            pass
        held.append(sum(clips.held.values()))
    assert max(held) < 500
    assert max(held[190:]) <= max(held[:190]) + 3


def test_what_cannot_be_live() -> None:
    with pytest.raises(InputError, match="dense"):
        LiveClips(spec_of().replace(mode="dense"), decoded, picture=0.04)
    with pytest.raises(InputError, match="shown for"):
        LiveClips(spec_of(), decoded, picture=5.0)
    with pytest.raises(InputError, match="time of a picture"):
        LiveClips(spec_of(), decoded, picture=0.04).push(float("nan"), jpeg(0))
