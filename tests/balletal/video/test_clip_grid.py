from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balletal.errors import InputError
from balletal.video.clips import VideoSegment, analysis_frames, clip_count, clip_times, plan_segments
from balletal.video.probe import VideoInfo

GRID = SimpleNamespace(fps=25.0, window=16, stride=4)


def video(duration: float) -> VideoInfo:
    return VideoInfo("a.mp4", duration, 25.0, 64, 48, "h264", 0, int(duration * 25), False)


@pytest.mark.parametrize(
    ("frames", "window", "stride", "clips"),
    [(0, 16, 4, 0), (1, 16, 4, 1), (16, 16, 4, 1), (19, 16, 4, 1), (20, 16, 4, 2), (1118, 64, 64, 17), (63, 64, 64, 1)],
)
def test_clip_count(frames: int, window: int, stride: int, clips: int) -> None:
    assert clip_count(frames, window, stride) == clips


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 500), st.integers(1, 70), st.integers(1, 70))
def test_clip_count_counts_the_windows_that_fit(frames: int, window: int, stride: int) -> None:
    fit = [k for k in range(frames) if k * stride + window <= frames]
    assert clip_count(frames, window, stride) == max(1, len(fit))


@pytest.mark.parametrize(
    ("duration", "frames"), [(0.0, 0), (0.001, 1), (10.0, 250), (9.999, 250), (10.001, 250), (67.934533, 1698)]
)
def test_analysis_frames_do_not_hang_on_a_millisecond(duration: float, frames: int) -> None:
    assert analysis_frames(duration, 25.0) == frames


def test_clip_times() -> None:
    start, end = clip_times(3, 2, GRID)
    np.testing.assert_allclose(start, [0.48, 0.64])
    np.testing.assert_allclose(end, [1.12, 1.28])
    assert [len(x) for x in clip_times(5, 0, GRID)] == [0, 0]


@settings(deadline=None, max_examples=50)
@given(st.floats(0.01, 200), st.integers(1, 60))
def test_segments_hold_every_clip_once(duration: float, at_most: int) -> None:
    segments = plan_segments("a", video(duration), GRID, at_most)
    clips = [clip for s in segments for clip in range(s.first_clip, s.first_clip + s.clips)]
    assert clips == list(range(clip_count(analysis_frames(duration, 25.0), 16, 4)))
    assert [s.segment for s in segments] == list(range(len(segments)))
    assert all(0 < s.clips <= at_most for s in segments)


def test_segments_of_a_short_video() -> None:
    assert plan_segments("a", video(0.2), GRID, 8) == [VideoSegment("a", "a.mp4", 0, 0, 1, 0.2)]
    with pytest.raises(InputError, match="clips per segment"):
        plan_segments("a", video(1.0), GRID, 0)
