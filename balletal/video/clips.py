"""The clip grid: the analysis frames and the seconds that a clip covers, and the units a long video is cut into."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from balletal.errors import InputError
from balletal.video.probe import VideoInfo

MAX_FPS = 1000
"""Analysis frames a second; no camera of a stage has more, and a mistyped rate would fill the memory."""


class ClipGrid(Protocol):
    """Clips of ``window`` analysis frames every ``stride`` frames, at ``fps`` analysis frames a second.

    A feature spec is one; `video` knows no specs, hence a protocol.
    """

    @property
    def fps(self) -> float: ...
    @property
    def window(self) -> int: ...
    @property
    def stride(self) -> int: ...


@dataclass(frozen=True)
class VideoSegment:
    """A unit of work: the clips ``[first_clip, first_clip + clips)`` of one video, part number ``segment``.

    ``duration`` is the whole video's, in seconds.
    """

    video_id: str
    uri: str
    segment: int
    first_clip: int
    clips: int
    duration: float


def analysis_frames(duration: float, fps: float) -> int:
    """How many analysis frames a video of ``duration`` seconds has: the nearest whole number, at least 1.

    The nearest, because container clocks are rounded (to a millisecond in Matroska): rounding up would
    add a frame to every tenth video.
    """
    return max(1, math.floor(duration * fps + 0.5)) if duration > 0 else 0


def clip_count(frames: int, window: int, stride: int) -> int:
    """How many clips fit into ``frames`` analysis frames.

    No frames make no clip; fewer frames than one window make one clip, whose last frame is repeated;
    frames behind the last full window belong to no clip.
    """
    if frames <= 0:
        return 0
    return max(0, frames - window) // stride + 1


def clip_times(first: int, count: int, grid: ClipGrid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Start and end of the clips ``[first, first + count)`` in seconds: two arrays of shape (count,)."""
    k = np.arange(first, first + count, dtype=np.float64) * grid.stride
    return k / grid.fps, (k + grid.window) / grid.fps


def plan_segments(video_id: str, info: VideoInfo, grid: ClipGrid, clips_per_segment: int) -> list[VideoSegment]:
    """Cut a video into units of at most ``clips_per_segment`` clips.

    The units depend on the arguments alone, so that a resumed job plans what the killed one planned.
    Neighbouring units read ``window - stride`` analysis frames in common, which is what makes the clips
    independent of where the cuts fall.
    """
    if clips_per_segment < 1:
        raise InputError("clips per segment", expected="1 or more", found=str(clips_per_segment))
    total = clip_count(analysis_frames(info.duration, grid.fps), grid.window, grid.stride)
    return [
        VideoSegment(video_id, info.uri, number, first, min(clips_per_segment, total - first), info.duration)
        for number, first in enumerate(range(0, total, clips_per_segment))
    ]
