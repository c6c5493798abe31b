"""From pictures to an MP4 file: H.264 at exact times, constant or as a telephone's, and AAC sound."""

import math
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from balletal.errors import InputError
from balletal.synthetic.music import RATE

# What the customary names of frame rates stand for; AnnChor has videos of 38.5 ms a frame.
_EXACT = {25.97: Fraction(2000, 77), 29.97: Fraction(30000, 1001)}
_TELEPHONE_CLOCK = Fraction(1, 90000)


def frame_rate(fps: float) -> Fraction:
    """The exact rate that ``fps`` names.

    >>> frame_rate(29.97)
    Fraction(30000, 1001)
    """
    return _EXACT.get(fps) or Fraction(str(fps))


def clock(fps: float, vfr: bool) -> Fraction:
    """Seconds of one tick of the video's time base: a frame, or the 90 kHz of telephones."""
    return _TELEPHONE_CLOCK if vfr else 1 / frame_rate(fps)


def frame_times(random: np.random.Generator, seconds: float, fps: float, vfr: bool) -> NDArray[np.float64]:
    """When the pictures of a video are shown: those below ``seconds``, from 0 on, on the ticks of :func:`clock`.

    A telephone's are jittered, and now and then, but at least once, some are missing. The first and the last picture
    stand where they would without that, so that the video always lasts as long.

    Returns:
        (T,) float64, seconds, rising.
    """
    rate = frame_rate(fps)
    count = math.ceil(Fraction(seconds) * rate)
    if not vfr or count < 4:
        return np.array([float(n / rate) for n in range(count)])
    kept = np.ones(count, dtype=bool)
    for start in random.integers(1, count - 1, 1 + random.poisson(0.2 * seconds)):
        kept[start : start + random.integers(1, 5)] = False
    jitter = np.clip(random.normal(0, 0.05, count), -0.3, 0.3)  # frames
    kept[[0, -1]], jitter[[0, -1]] = True, 0.0
    ticks = np.round((np.flatnonzero(kept) + jitter[kept]) / float(rate * _TELEPHONE_CLOCK))
    return ticks * float(_TELEPHONE_CLOCK)


def write_mp4(
    path: Path,
    pictures: Iterable[NDArray[np.uint8]],
    times: NDArray[np.float64],
    *,
    fps: float = 25.0,
    vfr: bool = False,
    crf: int = 23,
    sound: NDArray[np.float32] | None = None,
) -> float:
    """Write a video with the index in front and a keyframe about every second.

    Args:
        pictures: (height, width, 3) uint8 RGB, one for each time; even sides.
        times: (T,) seconds, of :func:`frame_times` with the same ``fps`` and ``vfr``.
        crf: H.264's constant rate factor: higher is smaller and worse.
        sound: (N,) float32 in [-1, 1] at ``music.RATE``, or None for a video without a sound track.

    Returns:
        The video's duration: the time at which its last picture ends, seconds.

    Raises:
        InputError: a side is odd.
        ValueError: not as many pictures as times.
    """
    base = clock(fps, vfr)
    last = 1 / float(frame_rate(fps))
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        video = container.add_stream("libx264", rate=frame_rate(fps))
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = base
        # One thread: more would make the bytes depend on timing. No macroblock tree: with B-frames x264's assembly for
        # it gives other values from one run to the next, and the bytes with them.
        # Colours are BT.601, as OpenCV converts them; unsaid, a player takes large pictures for BT.709.
        colours = ":".join(f"{name}=smpte170m" for name in ("colorprim", "transfer", "colormatrix"))
        x264 = f"crf={crf}:keyint={round(fps)}:mbtree=0:{colours}"
        video.options = {"preset": "veryfast", "threads": "1", "x264-params": x264}
        track = _Track(container, sound) if sound is not None else None
        for n, (picture, time) in enumerate(zip(pictures, times, strict=True)):
            if n == 0:
                video.height, video.width = _even(path, picture)
            # Not by FFmpeg's scaler: its rounding depends on where the picture lies in memory.
            planes = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420), np.uint8)
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.time_base, frame.pts = base, round(float(time) / float(base))
            container.mux(video.encode(frame))
            if track:
                track.write_until(float(time))
        container.mux(video.encode())
        if track:
            track.write_until(math.inf)
    return float(times[-1]) + last


def _even(path: Path, picture: NDArray[np.uint8]) -> tuple[int, int]:
    height, width = picture.shape[:2]
    if height % 2 or width % 2:
        raise InputError(str(path), expected="pictures with even sides", found=f"{width} x {height}")
    return height, width


class _Track:
    """The sound track, written piece by piece beside the pictures, as a player reads them."""

    def __init__(self, container: Any, sound: NDArray[np.float32]) -> None:
        self.container = container
        self.stream = container.add_stream("aac", rate=RATE, layout="mono")
        self.stream.bit_rate = 64000
        self.sound, self.written = sound, 0

    def write_until(self, time: float) -> None:
        """Write the samples before ``time`` seconds; with infinity all that are left."""
        size, end = 1024, len(self.sound)
        while self.written < end and (self.written + size) / RATE <= time:
            piece = self.sound[self.written : self.written + size]
            frame = av.AudioFrame.from_ndarray(piece[None], format="fltp", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), self.written
            self.container.mux(self.stream.encode(frame))
            self.written += len(piece)
        if time == math.inf:
            self.container.mux(self.stream.encode())
