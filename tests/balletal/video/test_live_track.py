"""The square while the video is going on, against that of the whole video."""

from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from balletal.video.live_track import LOOK_AHEAD_S, LiveTrack
from balletal.video.motion import looks
from balletal.video.track import CropTrack, at_frames, shots_of

WIDTH, HEIGHT, FPS = 160, 90, 25.0


def texture(seed: int, height: int, width: int, low: int, high: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(low, high, (height // 4 + 2, width // 4 + 2)).astype(np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


WALLS = [texture(seed, HEIGHT, WIDTH, 60, 140) for seed in (1, 5)]
DANCER = texture(2, 30, 16, 150, 250)


def middle(n: int) -> int:
    return round(80 + 45 * np.sin(n / 17))


def film(count: int, cut: int | None = None) -> Iterator[tuple[float, np.ndarray]]:
    """A dancer who goes to and fro before a wall, from picture ``cut`` on before another."""
    for n in range(count):
        picture = WALLS[cut is not None and n >= cut].copy()
        picture[30:60, middle(n) - 8 : middle(n) + 8] = DANCER
        yield n / FPS, picture


def live(track: LiveTrack, pictures: Iterator[tuple[float, np.ndarray]], count: int) -> list[CropTrack]:
    """The pieces of the track; each comes with the delay that the track states, or sooner."""
    pieces, began = [], track.decided
    for time, grey in pictures:
        pieces.append(track.push(time, grey))
        assert track.decided >= (time - track.delay_s) * FPS
        assert track.decided <= max(began, (time - LOOK_AHEAD_S) * FPS + 1)
    return [*pieces, track.finish(count)]


def offline(pictures: Iterator[tuple[float, np.ndarray]], count: int) -> CropTrack:
    return at_frames(list(shots_of(looks(pictures))), FPS, 0, count, 1 / FPS)


@pytest.mark.parametrize("cut", [None, 120])
def test_the_square_is_near_that_of_the_whole_video(cut: int | None) -> None:
    count = 300
    pieces = live(LiveTrack(FPS, 1 / FPS), film(count, cut), count)
    whole = offline(film(count, cut), count)
    assert [piece.first for piece in pieces] == list(np.cumsum([0, *map(len, pieces)])[:-1])
    x, shot = (np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("center", "shot"))
    assert len(x) == count
    np.testing.assert_array_equal(shot, whole.shot)
    assert shot.max() == (cut is not None)
    assert np.concatenate([piece.mover for piece in pieces]).all()
    assert np.abs(x - whole.center).max() < 0.06
    boxes = [piece.box(k, WIDTH, HEIGHT) for piece in pieces for k in range(len(piece))]
    held = [box[0] <= middle(n) - 7 and middle(n) + 7 <= box[2] for n, box in enumerate(boxes)]
    assert np.mean(held) > 0.97


def test_nobody_moves() -> None:
    pieces = live(LiveTrack(FPS, 1 / FPS), ((n / FPS, WALLS[0]) for n in range(100)), 100)
    assert sum(map(len, pieces)) == 100
    assert not any(piece.mover.any() for piece in pieces)


def test_memory_does_not_grow() -> None:
    track = LiveTrack(FPS, 1 / FPS)
    held = []
    for time, grey in film(700):
        track.push(time, grey)
        held.append(track.held)
    assert max(held[450:575]) == pytest.approx(max(held[575:]), abs=3)
    assert max(held) < 250


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_very_short_stretch(count: int) -> None:
    track = LiveTrack(FPS, 1 / FPS, first=40)
    pieces = live(track, ((time + 1.6, grey) for time, grey in film(count)), 40 + count)
    assert pieces[-1].first == 40
    assert sum(map(len, pieces)) == count
