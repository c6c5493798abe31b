"""The dancer crop track, on tiny scenes: a textured mover before a textured wall."""

from collections.abc import Callable, Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from balletal.errors import InputError, VideoError
from balletal.video.clips import analysis_frames
from balletal.video.motion import looks
from balletal.video.probe import timeline
from balletal.video.track import CropTrack, track_dancer
from schemas.arrow import TRACKS

WIDTH, HEIGHT = 192, 108
Write = Callable[..., Path]
Picture = NDArray[np.uint8]


def texture(seed: int, height: int, width: int, low: int = 60, high: int = 140) -> Picture:
    """Blotches of some pixels, as a wall's or a costume's."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4 + 2, width // 4 + 2)).astype(np.uint8)
    large = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC).astype(float)
    return np.repeat((low + large / 255 * (high - low)).astype(np.uint8)[..., None], 3, axis=2)


WALL = texture(1, HEIGHT, 3 * WIDTH)
DANCER = texture(2, 36, 20, 150, 250)
OTHER = texture(3, 14, 10, 150, 250)


def scene(movers: list[tuple[Picture, float, float]], pan: float = 0.0, wall: Picture = WALL) -> Picture:
    """A view of the wall from ``pan`` pixels on, and movers with their middles at (x, y) in the picture."""
    picture = wall[:, round(pan) : round(pan) + WIDTH].copy()
    for mover, x, y in movers:
        height, width = mover.shape[:2]
        left, top = round(x - width / 2), round(y - height / 2)
        picture[top : top + height, left : left + width] = mover
    return picture


def held(track: CropTrack, k: int, x: float, y: float, mover: Picture = DANCER) -> bool:
    """Whether the whole mover is in row ``k``'s square."""
    left, top, right, bottom = track.box(k, WIDTH, HEIGHT)
    height, width = mover.shape[:2]
    across = left <= x - width / 2 + 1 and x + width / 2 - 1 <= right
    return across and top <= y - height / 2 + 1 and y + height / 2 - 1 <= bottom


def sway(n: float) -> float:
    """A middle in x that goes to and fro, at most 3 pixels a frame."""
    return 96 + 50 * np.sin(n / 17)


@pytest.fixture
def film(write_video: Write) -> Callable[..., str]:
    """film(picture, count, **options) -> path: a video of ``picture(n)`` at 25 a second."""

    def write(picture: Callable[[int], Picture], count: int, name: str = "film.mp4", **options: object) -> str:
        options = {"gop": 25, **options}
        return str(write_video(name, np.arange(count) / 25, rate=25, picture=picture, **options))

    return write


Film = Callable[..., str]


def test_a_fixed_camera_and_the_first_frames(film: Film) -> None:
    # She stands for a second before she moves: the square is there from the first frame on.
    def x(n: int) -> float:
        return sway(max(0, n - 25))

    track = track_dancer(film(lambda n: scene([(DANCER, x(n), 60)]), 150), 25)
    assert len(track) == 150
    assert track.mover.all()
    assert not track.shot.any()
    assert all(held(track, n, x(n), 60) for n in range(150))
    assert np.median(track.side) < 0.9  # the dancer is a third of the height


@pytest.mark.parametrize("speed", [0.7, -2.0])
def test_a_camera_that_pans_is_no_mover(film: Film, speed: float) -> None:
    def pan(n: int) -> float:
        return 190 + speed * n - (0 if speed < 0 else 100)

    track = track_dancer(film(lambda n: scene([(DANCER, sway(n), 60)], pan(n)), 95), 25)
    assert track.mover.all()
    assert not track.shot.any()
    assert np.mean([held(track, n, sway(n), 60) for n in range(95)]) > 0.97
    assert np.median(track.side) < 0.9


def test_a_still_dancer_stays_in_the_square_when_the_camera_pans_on(film: Film) -> None:
    # In the scene she stands at 190 after frame 50, while the camera goes on to the left.
    def pan(n: int) -> float:
        return 100 - 1.0 * max(0, n - 50)

    def x(n: int) -> float:
        return sway(min(n, 50)) + 100 - pan(n)

    track = track_dancer(film(lambda n: scene([(DANCER, x(n), 60)], pan(n)), 90), 25)
    assert np.mean([held(track, n, x(n), 60) for n in range(90)]) > 0.95


def test_at_a_cut_the_square_jumps(film: Film) -> None:
    cut = 61  # no multiple of anything; an encoder makes the first picture of a shot a keyframe
    walls = WALL, texture(7, HEIGHT, WIDTH, 20, 220)

    def place(n: int) -> float:
        return 40 + 20 * np.sin(n / 9) if n < cut else 150 + 20 * np.sin(n / 9)

    track = track_dancer(film(lambda n: scene([(DANCER, place(n), 60)], wall=walls[n >= cut]), 130, gop=cut), 25)
    assert track.shot.tolist() == [0] * cut + [1] * (130 - cut)
    assert all(held(track, n, place(n), 60) for n in range(130))
    jump = track.center[cut, 0] - track.center[cut - 1, 0]
    assert jump > 0.4
    assert np.abs(np.diff(track.center[:cut, 0])).max() < 0.1 * jump  # nothing of the jump is smoothed away


def test_a_smaller_one_who_enters_later_is_not_followed(film: Film) -> None:
    def picture(n: int) -> Picture:
        movers = [(DANCER, 60 + 15 * np.sin(n / 6), 60.0)]
        if n >= 60:
            movers.append((OTHER, 165 + 12 * np.sin(n / 3), 70.0))
        return scene(movers)

    track = track_dancer(film(picture, 180), 25)
    assert all(held(track, n, 60 + 15 * np.sin(n / 6), 60) for n in range(180))
    assert track.side.max() < 0.95  # and the square does not grow to hold both


def test_who_stands_still_is_waited_for(film: Film) -> None:
    def x(n: int) -> float:
        return sway(min(n, 60) + max(0, n - 130))

    track = track_dancer(film(lambda n: scene([(DANCER, x(n), 60)]), 190), 25)
    assert track.mover.all()
    assert all(held(track, n, x(n), 60) for n in range(190))
    rest = track.center[80:115, 0] * WIDTH
    assert rest.max() - rest.min() < DANCER.shape[1] / 2


def test_who_stands_still_is_not_left_for_another_who_moves_meanwhile(film: Film) -> None:
    def picture(n: int) -> Picture:
        other = 165 + (12 * np.sin(n / 3) if 70 <= n < 110 else 0)
        return scene([(DANCER, 50 + 15 * np.sin(min(n, 60) / 6), 60.0), (OTHER, other, 60.0)])

    track = track_dancer(film(picture, 130), 25)
    assert all(held(track, n, 50 + 15 * np.sin(min(n, 60) / 6), 60) for n in range(130))


def test_where_nobody_moves_the_crop_is_the_whole_picture(film: Film) -> None:
    def picture(n: int) -> Picture:  # a sensor's noise is nobody
        noise = np.random.default_rng(n).normal(0, 2, (HEIGHT, WIDTH, 1))
        return np.clip(scene([(DANCER, 96, 60)]) + noise, 0, 255).astype(np.uint8)

    track = track_dancer(film(picture, 75), 25)
    assert not track.mover.any()
    assert (track.side == 1).all()
    assert (track.center == 0.5).all()


def test_a_shot_without_a_mover_is_seen_whole_and_the_next_one_is_not(film: Film) -> None:
    walls = texture(7, HEIGHT, WIDTH, 20, 220), WALL
    track = track_dancer(
        film(lambda n: scene([(DANCER, sway(n), 60)] if n >= 50 else [], wall=walls[n >= 50]), 120), 25
    )
    assert track.mover.tolist() == [False] * 50 + [True] * 70


def test_a_scene_that_fades_in_is_no_mover(film: Film) -> None:
    def picture(n: int) -> Picture:
        return (scene([(DANCER, 150 + 12 * np.sin(n / 5), 60)]) * min(1.0, n / 40)).astype(np.uint8)

    track = track_dancer(film(picture, 130), 25)
    assert np.mean([held(track, n, 150 + 12 * np.sin(n / 5), 60) for n in range(25, 130)]) > 0.95


def test_the_same_curve_at_any_rate_and_every_time(film: Film) -> None:
    path = film(lambda n: scene([(DANCER, sway(n), 60)]), 100)
    fast, again, slow = track_dancer(path, 25), track_dancer(path, 25), track_dancer(path, 12.5)
    for name in ("center", "side", "mover", "shot"):
        np.testing.assert_array_equal(getattr(fast, name), getattr(again, name))
        np.testing.assert_array_equal(getattr(fast, name)[::2], getattr(slow, name))


def test_a_picture_that_is_turned_for_display(film: Film) -> None:
    # Stored lying, shown upright: what moves at the left of the stored picture is then at the top or at the bottom.
    def picture(n: int) -> Picture:
        return scene([(DANCER, 40 + 15 * np.sin(n / 6), 60)])

    tracks = [track_dancer(film(picture, 75, f"{turn}.mp4", rotation=turn), 25) for turn in (0, 90, -90)]
    plain, *turned = (np.median(track.center, axis=0) for track in tracks)
    np.testing.assert_allclose(turned[0], [plain[1], 1 - plain[0]], atol=0.03)
    np.testing.assert_allclose(turned[1], [1 - plain[1], plain[0]], atol=0.03)
    box = tracks[1].box(30, HEIGHT, WIDTH)
    assert 0 <= box[0] < box[2] <= HEIGHT
    assert box[2] - box[0] == pytest.approx(box[3] - box[1])


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH // 2, HEIGHT, "yuv420p"
        stream.codec_context.sample_aspect_ratio = 2
        for n in range(75):
            stored = cv2.resize(scene([(DANCER, sway(n), 60)]), (WIDTH // 2, HEIGHT), interpolation=cv2.INTER_AREA)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, "rgb24")))
        container.mux(stream.encode())
    track = track_dancer(str(path), 25)
    assert np.mean([held(track, n, sway(n), 60) for n in range(75)]) > 0.97
    assert np.median(track.side) < 0.95


def test_a_file_that_is_cut_has_all_rows_and_keeps_the_last_square(film: Film, tmp_path: Path) -> None:
    whole = film(lambda n: scene([(DANCER, sway(n), 60)]), 200, options={"movflags": "faststart"}, bframes=0)
    cut = tmp_path / "cut.mp4"
    data = Path(whole).read_bytes()
    cut.write_bytes(data[: len(data) * 6 // 10])
    track = track_dancer(str(cut), 25)
    assert len(track) == 200 == analysis_frames(timeline(str(cut)).end, 25)
    assert np.mean([held(track, n, sway(n), 60) for n in range(100)]) > 0.95
    assert np.ptp(track.center[150:], axis=0).max() == 0


def test_a_stream_of_few_reference_pictures_is_decoded_whole(film: Film) -> None:
    def x(n: int) -> float:
        return sway(2 * n)

    path = str(film(lambda n: scene([(DANCER, x(n), 60)]), 60, bframes=16, gop=250))
    track = track_dancer(path, 25)
    assert np.mean([held(track, n, x(n), 60) for n in range(60)]) > 0.9


def test_what_is_no_video_is_told(film: Film, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(VideoError):
        track_dancer(str(tmp_path / "text.mp4"), 25)
    with pytest.raises(InputError, match="fps"):
        track_dancer(film(lambda n: scene([]), 5), 0)


def test_pictures_are_looked_at_as_they_come() -> None:
    taken = 0

    def pictures() -> Iterator[tuple[float, NDArray[np.uint8]]]:
        nonlocal taken
        for n in range(10_000):
            taken += 1
            yield n / 25, scene([(DANCER, sway(n), 60)])[..., 0]

    seen = looks(pictures())
    for _ in range(20):
        next(seen)
    assert taken < 100


def _track(count: int = 10, first: int = 0) -> CropTrack:
    random = np.random.default_rng(0)
    return CropTrack(
        fps=12.5,
        center=random.random((count, 2)).astype(np.float32),
        side=random.uniform(0.2, 1, count).astype(np.float32),
        mover=random.random(count) < 0.5,
        shot=np.sort(random.integers(0, 3, count)).astype(np.int32),
        first=first,
    )


def test_a_track_survives_parquet(tmp_path: Path) -> None:
    track = _track().slice(3, 8)
    table = track.to_table()
    assert table.schema.equals(TRACKS)
    pq.write_table(table, tmp_path / "track.parquet")
    back = CropTrack.from_table(pq.read_table(tmp_path / "track.parquet"))
    assert (back.fps, back.first, len(back)) == (12.5, 3, 5)
    for name in ("center", "side", "mover", "shot"):
        np.testing.assert_array_equal(getattr(back, name), getattr(_track(), name)[3:8])
    np.testing.assert_allclose(table["time_s"], np.arange(3, 8) / 12.5)


def test_another_table_is_refused() -> None:
    with pytest.raises(InputError, match="track"):
        CropTrack.from_table(pa.table({"x": [1.0]}))


def test_boxes_are_squares_inside_the_picture() -> None:
    track = _track(200)
    for width, height in ((1280, 720), (720, 1280), (300, 300)):
        for k in range(len(track)):
            left, top, right, bottom = track.box(k, width, height)
            assert right - left == pytest.approx(bottom - top)
            assert right - left == pytest.approx(float(track.side[k]) * min(width, height))
            assert left >= -1e-6
            assert right <= width + 1e-3
            assert top >= -1e-6
            assert bottom <= height + 1e-3
