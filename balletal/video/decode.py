"""Frames at exact times: decoding to a fixed analysis rate from presentation timestamps.

Analysis frame ``n`` is the picture whose presentation time is nearest to ``n / fps`` seconds; of two equally near ones,
the earlier. That holds for any source rate and for variable ones, and does not depend on where reading starts.
"""

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import av
import numpy as np
from numpy.typing import NDArray

from balletal.errors import InputError, VideoError
from balletal.video.clips import analysis_frames
from balletal.video.probe import Timeline, check_picture, clockwise, open_video, timeline

Crop = Literal["center", "full", "dancer"]

# Two times nearer than this are the same time: clocks are exact fractions, their quotients as floats are not.
_SAME_S = 1e-6
# How much longer than its packets a container may say it is: headers are rounded, and some are sloppy.
_CLAIM_S = 1.0
# The published I3D practice: the short side to 256, then the central 224.
_SHORT_SIDE = 256 / 224
# How far before the wanted time to look for a keyframe, seconds, when the nearest one does not do.
_SEEK_BACK_S = (0.0, 2.0, 8.0, 32.0)


@dataclass(frozen=True)
class Frames:
    """Analysis frames of a video.

    Attributes:
        pixels: (n, size, size, 3) uint8, RGB.
        damage: what could not be decoded, so that frames are missing at the end or a neighbour stands in for them;
            None when all is well.
    """

    pixels: NDArray[np.uint8]
    damage: str | None = None


class _Damage:
    """Counts what went wrong while a stream was read, and says it in one line."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.first: dict[str, str] = {}

    def add(self, what: str, detail: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1
        self.first.setdefault(what, detail)

    def __str__(self) -> str:
        return "; ".join(f"{what} ({n}; first: {self.first[what]})" for what, n in self.counts.items())


def read_frames(
    uri: str,
    fps: float,
    start: int,
    stop: int,
    *,
    crop: Crop = "center",
    size: int = 224,
) -> Frames:
    """Analysis frames ``[start, stop)`` of a video, as many of them as it has.

    A video has :func:`balletal.video.clips.analysis_frames` of its duration. Reading from ``start > 0`` gives exactly
    what reading from 0 gives; it seeks where the file's clock allows that, and decodes from 0 where it does not.

    Args:
        uri: local path or fsspec URI.
        fps: analysis rate, frames a second.
        crop: ``center`` scales the short side to 8/7 of ``size`` (256 for 224), aspect kept, and takes the central
            square; ``full`` squeezes the whole picture. Pictures are turned as the file's metadata says, and scaled
            together with the colour conversion by libswscale (bilinear, widened for shrinking, so it does not alias).
        size: side of the square frames in pixels.

    Raises:
        InputError: the arguments make no sense, or the crop is not there.
        VideoError: the file cannot be opened, or nothing in it can be decoded.
    """
    if crop not in ("center", "full"):
        raise InputError(
            f"crop {crop}", expected="center or full", found="a crop that needs a dancer track, not here yet"
        )
    if not (fps > 0 and 0 <= start <= stop and size > 0):
        found = f"fps {fps}, [{start}, {stop}), size {size}"
        raise InputError(str(uri), expected="fps > 0, 0 <= start <= stop, size > 0", found=found)
    clock = timeline(uri)
    whole = analysis_frames(clock.end, fps)
    stop = min(stop, whole)
    pixels = np.empty((max(0, stop - start), size, size, 3), dtype=np.uint8)
    if not len(pixels):
        return Frames(pixels)

    damage = _Damage()
    n = start
    shown: _Shown | None = None
    for picture in _from(uri, clock, start / fps, damage):
        while shown and n < stop and n / fps <= (shown.time + picture.time) / 2 + _SAME_S:
            pixels[n - start] = shown.fitted(crop, size)
            n += 1
        shown = picture
        if n >= stop:
            break
    if shown is None:
        if start == 0:
            raise VideoError(str(uri), "corrupt", expected="a picture that can be decoded", found=str(damage) or "none")
        return Frames(pixels[:0], str(damage) or "nothing could be decoded")
    if stop == whole and clock.claimed > clock.end + _CLAIM_S:
        damage.add("the file is cut short", f"it ends at {clock.end:.2f} s, its header says {clock.claimed:.2f} s")
    if n < stop:
        end = shown.time + shown.duration
        while n < min(stop, analysis_frames(end, fps)):
            pixels[n - start] = shown.fitted(crop, size)
            n += 1
        if end < clock.end - max(0.25, 3 * shown.duration):
            damage.add("the video ends early", f"at {end:.2f} s of {clock.end:.2f} s")
    return Frames(pixels[: n - start], str(damage) or None)


class _Shown:
    """A decoded picture, its presentation time and duration in seconds, its pixels' aspect; converted at most once."""

    def __init__(self, time: float, duration: float, frame: Any, aspect: float) -> None:
        self.time, self.duration, self.frame, self.aspect = time, duration, frame, aspect
        self._fitted: NDArray[np.uint8] | None = None

    def fitted(self, crop: Crop, size: int) -> NDArray[np.uint8]:
        if self._fitted is None:
            self._fitted = _fit(self.frame, self.aspect, crop, size)
        return self._fitted


def _fit(frame: Any, aspect: float, crop: Crop, size: int) -> NDArray[np.uint8]:
    """(size, size, 3) uint8 RGB."""
    width, height = size, size
    if crop == "center":
        # Anamorphic video: pixels that are not square are made so, or the dancer is narrow.
        shown_width = frame.width * aspect
        scale = round(size * _SHORT_SIDE) / min(shown_width, frame.height)
        width, height = max(size, round(shown_width * scale)), max(size, round(frame.height * scale))
    small = frame.reformat(width, height, "rgb24", interpolation="BILINEAR", threads=1).to_ndarray()
    small = np.rot90(small, k=-(clockwise(frame) // 90))
    top, left = (small.shape[0] - size) // 2, (small.shape[1] - size) // 2
    return small[top : top + size, left : left + size]


def _from(uri: str, clock: Timeline, time: float, damage: _Damage) -> Iterator[_Shown]:
    """Pictures in order of presentation, from the one shown at ``time`` or an earlier one on."""
    if clock.seekable and time > 0:
        for back in _SEEK_BACK_S:
            if time - back <= 0:
                break
            tried = _Damage()
            pictures = _pictures(uri, clock, time - back, tried)
            first = next(pictures, None)
            if first is not None and first.time <= time + _SAME_S:
                damage.counts, damage.first = tried.counts, tried.first
                yield first
                yield from pictures
                return
            pictures.close()
    yield from _pictures(uri, clock, None, damage)


def _pictures(uri: str, clock: Timeline, seek: float | None, damage: _Damage) -> Generator[_Shown, None, None]:
    """Decoded pictures with strictly rising times, from 0 or from a keyframe at or before ``seek`` seconds."""
    with open_video(uri) as (container, stream):
        base = float(stream.time_base)
        nominal = float(1 / stream.average_rate) if stream.average_rate else clock.end / clock.frames
        if seek is not None:
            try:
                container.seek(math.floor((seek + clock.zero) / base), stream=stream)
            except av.error.FFmpegError:
                return
        aspect = float(stream.sample_aspect_ratio or 1)
        zero = clock.zero
        last = -math.inf
        for frame in _decoded(container, stream, damage):
            # Pictures before the first keyframe refer to ones that were skipped.
            if seek is not None and last == -math.inf and not frame.key_frame:
                continue
            check_picture(uri, frame.width, frame.height, aspect)
            stamp = frame.dts if clock.decode_order else frame.pts if frame.pts is not None else frame.dts
            if stamp is None:
                time = 0.0 if last == -math.inf else last + nominal
            else:
                if clock.decode_order and last == -math.inf:
                    zero = stamp * base
                time = stamp * base - zero
            if time <= last:
                damage.add("the clock runs backwards: pictures left out", f"{time:.2f} s after {last:.2f} s")
                continue
            last = time
            yield _Shown(time, (frame.duration or 0) * base or nominal, frame, aspect)


def _decoded(container: Any, stream: Any, damage: _Damage) -> Iterator[Any]:
    """Frames as the decoder shows them. A packet that cannot be decoded is left out; decoding goes on behind it."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError as error:
            damage.add("the file cannot be read on", str(error))
            return
        if packet is None:
            return
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            at = f"{packet.pts * float(stream.time_base):.2f} s, " if packet.pts is not None else ""
            damage.add("packets that cannot be decoded", f"{at}{error.strerror}")
            continue
        yield from frames
