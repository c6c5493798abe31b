"""What is written has the times, the sound and the form that were asked for."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from balletal.errors import InputError
from balletal.synthetic.encode import clock, frame_rate, frame_times, write_mp4
from balletal.synthetic.music import RATE, compose
from balletal.video.probe import probe

SECONDS = 4.3


def pictures(count: int, width: int = 96, height: int = 64) -> list[np.ndarray]:
    """A bright bar that moves over grey."""
    frames = np.full((count, height, width, 3), (90, 120, 150), np.uint8)
    for i, frame in enumerate(frames):
        frame[:, i % width : i % width + 8] = (220, 40, 40)
    return list(frames)


def decoded_times(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return np.array([float(frame.pts * stream.time_base) for frame in container.decode(stream)])


@pytest.mark.parametrize("sound", [None, "waltz"])
@pytest.mark.parametrize(("fps", "vfr"), [(25.0, False), (25.97, False), (29.97, False), (30.0, False), (30.0, True)])
def test_every_picture_has_its_time(tmp_path: Path, fps: float, vfr: bool, sound: str | None) -> None:
    random = np.random.default_rng(1)
    times = frame_times(random, SECONDS, fps, vfr)
    path = tmp_path / "x.mp4"
    samples = compose(random, SECONDS, "waltz") if sound else None
    duration = write_mp4(path, pictures(len(times)), times, fps=fps, vfr=vfr, sound=samples)
    np.testing.assert_allclose(decoded_times(path), times, rtol=0, atol=1e-9)
    info = probe(str(path))
    assert (info.codec, info.width, info.height, info.frames) == ("h264", 96, 64, len(times))
    assert info.vfr == vfr
    assert info.duration == pytest.approx(duration, abs=0.001)  # a header counts milliseconds
    assert SECONDS <= duration < SECONDS + 1 / fps
    if not vfr:
        assert info.fps == pytest.approx(float(frame_rate(fps)), abs=0.01)


def test_times_of_constant_rates_are_exact() -> None:
    random = np.random.default_rng(0)
    assert [frame_rate(fps) for fps in (25.0, 25.97, 29.97)] == [25, Fraction(2000, 77), Fraction(30000, 1001)]
    for fps in (25.0, 25.97, 29.97, 30.0):
        times = frame_times(random, 20, fps, False)
        assert list(times) == [float(n / frame_rate(fps)) for n in range(len(times))]
        assert times[-1] < 20 <= times[-1] + clock(fps, False)


@pytest.mark.parametrize("seed", range(20))
def test_a_telephone_is_late_and_leaves_out(seed: int) -> None:
    times = frame_times(np.random.default_rng(seed), 6, 30.0, True)
    steps = np.diff(times)
    assert (times[0], times[-1]) == (0, pytest.approx(179 / 30, abs=1e-5))
    assert steps.min() > 0.01
    assert steps.max() > 0.05  # at least one picture is missing
    assert np.std(steps[steps < 0.05]) > 0.0005
    ticks = times * 90000
    np.testing.assert_allclose(ticks, np.round(ticks), atol=1e-6)
    assert 150 < len(times) < 180


def test_the_form_of_the_file(tmp_path: Path) -> None:
    times = frame_times(np.random.default_rng(0), 4, 25.0, False)
    path = tmp_path / "x.mp4"
    write_mp4(path, iter(pictures(100, 64, 96)), times)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.pix_fmt, stream.width, stream.height, stream.average_rate) == ("yuv420p", 64, 96, 25)
        keys = [float(packet.pts * stream.time_base) for packet in container.demux(stream) if packet.is_keyframe]
    assert keys[0] == 0
    assert max(np.diff(keys)) <= 1
    with av.open(str(path)) as container:
        first = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    assert abs(first[:, 2:6].mean(axis=(0, 1)) - (220, 40, 40)).max() < 20
    assert abs(first[:, 20:].mean(axis=(0, 1)) - (90, 120, 150)).max() < 6

    for _ in range(5):  # the same bytes, wherever things lie in memory
        write_mp4(tmp_path / "again.mp4", pictures(100, 64, 96), times)
        assert (tmp_path / "again.mp4").read_bytes() == data
    write_mp4(tmp_path / "small.mp4", pictures(100, 64, 96), times, crf=40)
    assert len((tmp_path / "small.mp4").read_bytes()) < len(data)


@pytest.mark.parametrize("kind", ["waltz", "march", "silence"])
def test_sound(tmp_path: Path, kind: str) -> None:
    samples = compose(np.random.default_rng(2), 4, kind)  # type: ignore[arg-type]
    assert (len(samples), samples.dtype) == (4 * RATE, np.float32)
    assert np.abs(samples).max() == (0 if kind == "silence" else pytest.approx(0.7))
    np.testing.assert_array_equal(samples, compose(np.random.default_rng(2), 4, kind))  # type: ignore[arg-type]
    times = frame_times(np.random.default_rng(0), 4, 30.0, False)
    path = tmp_path / "x.mp4"
    write_mp4(path, pictures(120), times, fps=30.0, sound=samples)
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        assert (stream.codec_context.name, stream.rate) == ("aac", RATE)
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(stream)])
    assert len(heard) == pytest.approx(4 * RATE, abs=2048)
    loud = np.sqrt((heard[: 4 * RATE].reshape(8, -1) ** 2).mean(axis=1))  # each half second
    assert (loud > 0.01).all() if kind != "silence" else (loud < 1e-4).all()
    assert probe(str(path)).duration == 4


@pytest.mark.parametrize("size", [(65, 64), (64, 65)])
def test_odd_sides_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="even sides"):
        write_mp4(tmp_path / "x.mp4", pictures(2, *size), np.array([0, 0.04]))


def test_as_many_pictures_as_times(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="longer"):
        write_mp4(tmp_path / "x.mp4", pictures(2), np.array([0, 0.04, 0.08]))
