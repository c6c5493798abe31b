from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import fsspec
import numpy as np
import pytest

from balletal.errors import InputError, VideoError
from balletal.video.clips import analysis_frames
from balletal.video.decode import read_frames
from balletal.video.probe import probe, timeline

Write = Callable[..., Path]
Shown = Callable[[np.ndarray], list[int]]


def nearest(times: np.ndarray, fps: float, count: int) -> list[int]:
    """The rule, by brute force: the picture nearest to n / fps; of two equally near, the earlier."""
    distance = np.abs(times[None, :] - (np.arange(count) / fps)[:, None]).round(6)
    return [int(k) for k in distance.argmin(axis=1)]


@pytest.mark.parametrize("fps", [24.0, 2000 / 77, 30000 / 1001, 30.0, 60.0, 10.0])
@pytest.mark.parametrize("rate", [25.0, 12.5])
def test_any_source_rate_gives_the_nearest_pictures(write_video: Write, shown: Shown, fps: float, rate: float) -> None:
    times = np.arange(50) / fps
    path = write_video("a.mp4", times, rate=Fraction(fps).limit_denominator(1001))
    frames = read_frames(str(path), rate, 0, 10_000, size=32)
    assert frames.damage is None
    assert len(frames.pixels) == analysis_frames(probe(str(path)).duration, rate)
    assert shown(frames.pixels) == nearest(times, rate, len(frames.pixels))
    assert probe(str(path)).fps == pytest.approx(fps, rel=1e-3)


def test_variable_rate(write_video: Write, shown: Shown) -> None:
    times = np.cumsum(np.random.default_rng(3).uniform(0.01, 0.2, 40)) - 0.01
    times -= times[0]
    path = str(write_video("vfr.mp4", times))
    assert probe(path).vfr
    count = int(times[-1] * 25)
    assert shown(read_frames(path, 25, 0, count, size=32).pixels) == nearest(times, 25, count)


def test_a_constant_rate_is_not_called_variable(write_video: Write) -> None:
    assert not probe(str(write_video("cfr.mkv", np.arange(40) / 30))).vfr  # Matroska rounds to milliseconds


def test_of_two_equally_near_pictures_the_earlier_is_taken(write_video: Write, shown: Shown) -> None:
    path = write_video("tie.mp4", [0.0, 0.2, 0.4, 0.6])
    assert shown(read_frames(str(path), 10, 0, 6, size=32).pixels) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("name", "codec", "bframes"),
    [
        ("a.mp4", "libx264", 2),
        ("a.mkv", "libx264", 2),
        ("a.ts", "libx264", 2),
        ("m.ts", "mpeg4", 2),
        ("a.flv", "libx264", 2),
        ("a.avi", "mpeg4", 0),
        ("b.avi", "mpeg4", 2),
    ],
)
def test_reading_from_the_middle_is_reading_from_the_start(
    write_video: Write, shown: Shown, name: str, codec: str, bframes: int
) -> None:
    def noise(index: int) -> np.ndarray:
        # Noise makes pictures depend on the ones they are predicted from: a wrong start would show.
        picture = np.random.default_rng(index % 7).integers(0, 60, (48, 64, 3)) + index % 70
        return picture.astype(np.uint8)

    path = str(write_video(name, np.arange(100) / 30, codec=codec, bframes=bframes, picture=noise, gop=30))
    whole = read_frames(path, 25, 0, 10_000, size=32).pixels
    # An encoder may leave out a picture at the very end of an AVI.
    assert abs(len(whole) - 83) <= 1
    for start in [1, 13, 24, 25, 26, 50, 77, len(whole) - 1]:
        part = read_frames(path, 25, start, start + 4, size=32).pixels
        np.testing.assert_array_equal(part, whole[start : start + 4])


def test_the_clock_starts_at_0_in_a_transport_stream(write_video: Write, shown: Shown) -> None:
    path = str(write_video("a.ts", np.arange(30) / 25))  # its own clock starts at 1.4 s
    assert probe(path).duration == pytest.approx(1.2, abs=0.05)
    assert shown(read_frames(path, 25, 0, 30, size=32).pixels) == list(range(30))


def test_behind_the_end_there_is_nothing(write_video: Write) -> None:
    path = str(write_video("a.mp4", np.arange(25) / 25))
    assert read_frames(path, 25, 100, 200, size=32).pixels.shape == (0, 32, 32, 3)
    assert read_frames(path, 25, 20, 200, size=32).pixels.shape == (5, 32, 32, 3)


def _quarters(index: int) -> np.ndarray:
    """Top left red, top right green, bottom left blue, bottom right white."""
    picture = np.zeros((64, 96, 3), dtype=np.uint8)
    picture[:32, :48, 0] = picture[:32, 48:, 1] = picture[32:, :48, 2] = 220
    picture[32:, 48:] = 220
    return picture


@pytest.mark.parametrize(
    ("stored", "clockwise", "corners"),
    [(0, 0, "rgbw"), (-90, 90, "brwg"), (180, 180, "wbgr"), (90, 270, "gwrb")],
)
def test_rotation_is_applied(write_video: Write, stored: int, clockwise: int, corners: str) -> None:
    path = str(write_video("r.mp4", np.arange(3) / 25, picture=_quarters, rotation=stored))
    info = probe(path)
    assert info.rotation == clockwise
    assert (info.width, info.height) == ((64, 96) if clockwise in (90, 270) else (96, 64))
    frame = read_frames(path, 25, 0, 1, crop="full", size=32).pixels[0]
    colours = {"r": (220, 0, 0), "g": (0, 220, 0), "b": (0, 0, 220), "w": (220, 220, 220)}
    found = [frame[y, x].astype(int) for y in (7, 24) for x in (7, 24)]
    for pixel, name in zip(found, corners, strict=True):
        assert np.abs(pixel - colours[name]).max() < 30, (found, corners)


def _ramps(index: int) -> np.ndarray:
    """Red grows from 0 at the left to 254 at the right, green from 0 at the top."""
    y, x = np.mgrid[:128, :256]
    return np.stack([x * 254 / 255, y * 254 / 127, np.full_like(x, 60)], axis=-1).astype(np.uint8)


def test_crops(write_video: Write) -> None:
    path = str(write_video("c.mp4", [0.0, 0.04], picture=_ramps))
    full = read_frames(path, 25, 0, 1, crop="full", size=56).pixels[0].astype(int)
    centre = read_frames(path, 25, 0, 1, crop="center", size=56).pixels[0].astype(int)
    # `full` shows everything; `center` the middle 56 / 64 of the height and 56 / 128 of the width.
    assert full[28, 1, 0] < 12
    assert full[28, -2, 0] > 242
    left, right = (254 * (0.5 + sign * 28 / 128) for sign in (-1, 1))
    assert centre[28, 0, 0] == pytest.approx(left, abs=6)
    assert centre[28, -1, 0] == pytest.approx(right, abs=6)
    assert centre[0, 28, 1] == pytest.approx(254 * (0.5 - 28 / 64), abs=6)
    with pytest.raises(InputError, match="a track for dancer"):
        read_frames(path, 25, 0, 1, crop="dancer")


class Squares:
    """Two rows: a square of 64 pixels at (160, 48), and nobody."""

    mover = np.array([True, False])

    def box(self, k: int, width: int, height: int) -> tuple[float, float, float, float]:
        assert k == 0
        assert (width, height) in ((256, 128), (128, 256))
        return (160, 48, 224, 112) if width > height else (48, 160, 112, 224)


@pytest.mark.parametrize("size", [32, 96])
def test_the_dancer_crop_takes_the_tracks_squares(write_video: Write, size: int) -> None:
    path = str(write_video("d.mp4", [0.0, 0.04], picture=_ramps))
    square, whole = read_frames(path, 25, 0, 2, crop="dancer", size=size, track=Squares()).pixels.astype(int)
    pixel = 64 / size
    for at in (0, size // 2, size - 1):
        assert square[size // 2, at, 0] == pytest.approx(254 * (160 + (at + 0.5) * pixel) / 256, abs=6)
        assert square[at, size // 2, 1] == pytest.approx(254 * (48 + (at + 0.5) * pixel) / 128, abs=6)
    np.testing.assert_array_equal(whole, read_frames(path, 25, 1, 2, crop="full", size=size).pixels[0])
    with pytest.raises(InputError, match="none for others"):
        read_frames(path, 25, 0, 2, crop="center", track=Squares())


def test_the_dancer_crop_is_of_the_picture_as_displayed(write_video: Write) -> None:
    path = str(write_video("r.mp4", [0.0, 0.04], picture=_ramps, rotation=-90))
    square = read_frames(path, 25, 0, 1, crop="dancer", size=32, track=Squares()).pixels[0].astype(int)
    # Turned clockwise, what was at the left is at the top: red falls with y, green grows to the left.
    assert square[0, 16, 0] == pytest.approx(254 * 161 / 256, abs=6)
    assert square[-1, 16, 0] == pytest.approx(254 * 223 / 256, abs=6)
    assert square[16, 0, 1] == pytest.approx(254 * (1 - 49 / 128), abs=6)


def test_a_cut_file_gives_what_there_is_and_says_so(write_video: Write, shown: Shown) -> None:
    for name, start in (("cut.mp4", b"mdat"), ("cut.mkv", b"\x1f\x43\xb6\x75")):
        path = write_video(name, np.arange(100) / 25, options={"movflags": "faststart"}, gop=5, rate=25)
        data = path.read_bytes()
        header = data.index(start)
        path.write_bytes(data[: header + (len(data) - header) // 2])
        frames = read_frames(str(path), 25, 0, 100, size=32)
        assert 20 < len(frames.pixels) < 90, name
        assert shown(frames.pixels) == [k % 70 for k in range(len(frames.pixels))]
        assert "4.00 s" in str(frames.damage)
        tail = read_frames(str(path), 25, 98, 100, size=32)
        assert len(tail.pixels) == 0


def test_damage_in_the_middle_is_told_and_what_follows_is_given(write_video: Write, shown: Shown) -> None:
    path = write_video("hurt.mp4", np.arange(60) / 25, codec="mpeg4", bframes=0, gop=5, rate=25)
    data = bytearray(path.read_bytes())
    middle = data.index(b"mdat") + 8 + (len(data) - data.index(b"mdat")) // 4
    data[middle : middle + 300] = bytes(300)
    path.write_bytes(data)
    frames = read_frames(str(path), 25, 0, 60, size=32)
    assert frames.damage
    assert len(frames.pixels) == 60
    assert shown(frames.pixels[-5:]) == [55, 56, 57, 58, 59]


def test_a_clock_that_runs_backwards_is_told(write_video: Write, shown: Shown) -> None:
    path = write_video("a.mkv", np.arange(40) / 25, codec="mpeg4", bframes=0, rate=25)
    data = bytearray(path.read_bytes())
    # A SimpleBlock: id A3, its size, the track, two bytes of time: take a second from the times of the last pictures.
    cluster = data.index(b"\x1f\x43\xb6\x75")
    moved = 0
    for time in range(1200, 1600, 40):
        block = data.find(b"\x81" + time.to_bytes(2, "big") + b"\x00", cluster)
        if block > 0:
            data[block + 1 : block + 3] = (time - 1000).to_bytes(2, "big")
            moved += 1
    assert moved > 5
    path.write_bytes(data)
    assert not timeline(str(path)).seekable
    frames = read_frames(str(path), 25, 0, 40, size=32)
    assert "backwards" in str(frames.damage)
    assert shown(frames.pixels[:30]) == list(range(30))
    np.testing.assert_array_equal(read_frames(str(path), 25, 10, 20, size=32).pixels, frames.pixels[10:20])


def test_nothing_that_decodes_is_an_error(write_video: Write) -> None:
    path = write_video("a.mp4", np.arange(20) / 25)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4
    data[start:end] = bytes(end - start)
    path.write_bytes(data)
    with pytest.raises(VideoError) as caught:
        read_frames(str(path), 25, 0, 20)
    assert caught.value.kind == "corrupt"


def test_any_fsspec_uri(write_video: Write) -> None:
    path = write_video("a.mp4", np.arange(50) / 25)
    uri = "memory://videos/a.mp4"
    fsspec.filesystem("memory").pipe_file("/videos/a.mp4", path.read_bytes())
    np.testing.assert_array_equal(
        read_frames(uri, 25, 30, 40, size=32).pixels, read_frames(str(path), 25, 30, 40, size=32).pixels
    )
    assert probe(uri).duration == probe(str(path)).duration


@pytest.mark.parametrize("arguments", [(0.0, 0, 1), (25.0, -1, 1), (25.0, 5, 4)])
def test_arguments_that_make_no_sense(arguments: tuple[float, int, int]) -> None:
    with pytest.raises(InputError, match="fps > 0"):
        read_frames("a.mp4", *arguments)
