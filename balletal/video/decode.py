"""Frames at exact times: decoding to a fixed analysis rate from presentation timestamps.

Analysis frame ``n`` is the picture whose presentation time is nearest to ``n / fps`` seconds; of two equally near ones,
the earlier. That holds for any source rate and for variable ones, and does not depend on where reading starts.
"""

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, Protocol

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
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


class Boxes(Protocol):
    """Where a ``dancer`` crop is: row ``k`` stands for the ``k``-th frame that is read.

    :class:`balletal.video.track.CropTrack` is one.
    """

    @property
    def mover(self) -> NDArray[np.bool_]:
        """(n,): False where nobody moves, so that the whole picture is taken."""
        ...

    def box(self, k: int, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the square, in pixels of a displayed picture of that size."""
        ...


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
    track: Boxes | None = None,
) -> Frames:
    """Analysis frames ``[start, stop)`` of a video, as many of them as it has.

    A video has :func:`balletal.video.clips.analysis_frames` of its duration. Reading from ``start > 0`` gives exactly
    what reading from 0 gives; it seeks where the file's clock allows that, and decodes from 0 where it does not.

    Args:
        uri: local path or fsspec URI.
        fps: analysis rate, frames a second.
        crop: ``center`` scales the short side to 8/7 of ``size`` (256 for 224), aspect kept, and takes the central
            square; ``full`` squeezes the whole picture; ``dancer`` takes the squares of ``track``. Pictures are turned
            as the file's metadata says, and shrunk without aliasing (``center`` and ``full`` together with the colour
            conversion, by libswscale's widened bilinear filter; ``dancer`` by area).
        size: side of the square frames in pixels.
        track: of the frames ``[start, stop)``, for ``dancer``.

    Raises:
        InputError: the arguments make no sense.
        VideoError: the file cannot be opened, or nothing in it can be decoded.
    """
    if (track is None) == (crop == "dancer"):
        raise InputError(f"crop {crop}", expected="a track for dancer, and none for others", found="the other way")
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
            pixels[n - start] = shown.fitted(crop, size, track, n - start)
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
            pixels[n - start] = shown.fitted(crop, size, track, n - start)
            n += 1
        if end < clock.end - max(0.25, 3 * shown.duration):
            damage.add("the video ends early", f"at {end:.2f} s of {clock.end:.2f} s")
    return Frames(pixels[: n - start], str(damage) or None)


class _Shown:
    """A decoded picture, its presentation time and duration in seconds, its pixels' aspect; converted at most once."""

    def __init__(self, time: float, duration: float, frame: Any, aspect: float) -> None:
        self.time, self.duration, self.frame, self.aspect = time, duration, frame, aspect
        self._fitted: NDArray[np.uint8] | None = None
        self._whole: NDArray[np.uint8] | None = None

    def fitted(self, crop: Crop, size: int, track: Boxes | None, k: int) -> NDArray[np.uint8]:
        """(size, size, 3) uint8 RGB; ``k`` is the row of ``track``."""
        if track is not None and track.mover[k]:
            if self._whole is None:
                self._whole = _turned(self.frame, self.frame.width, self.frame.height)
            return _cut(self._whole, self.shown_size(), track, k, size)
        if self._fitted is None:
            self._fitted = _fit(self.frame, self.aspect, "full" if crop == "dancer" else crop, size)
        return self._fitted

    def shown_size(self) -> tuple[int, int]:
        """Width and height as displayed, with square pixels."""
        width, height = round(self.frame.width * self.aspect), self.frame.height
        return (height, width) if clockwise(self.frame) in (90, 270) else (width, height)

    def size_within(self, longest: int) -> tuple[int, int]:
        """Width and height as displayed, even, and shrunk if a side is longer than that."""
        width, height = self.shown_size()
        scale = min(1.0, longest / max(width, height))
        return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)

    def whole(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        """The picture as displayed, in RGB, at that width and height."""
        stored = size[::-1] if clockwise(self.frame) in (90, 270) else size
        return np.ascontiguousarray(_turned(self.frame, *stored))


def _cut(picture: NDArray[np.uint8], shown_size: tuple[int, int], track: Boxes, k: int, size: int) -> NDArray[np.uint8]:
    """The track's square of a picture, whose pixels need not be square, at ``size``."""
    (height, width), (shown_width, shown_height) = picture.shape[:2], shown_size
    left, top, right, bottom = track.box(k, shown_width, shown_height)
    x, y = width / shown_width, height / shown_height
    # At least one pixel, and inside the picture, whatever rounding does.
    x0, y0 = min(max(round(left * x), 0), width - 1), min(max(round(top * y), 0), height - 1)
    x1, y1 = min(max(round(right * x), x0 + 1), width), min(max(round(bottom * y), y0 + 1), height)
    shrinks = (x1 - x0) * (y1 - y0) > size * size
    scaled = cv2.resize(
        picture[y0:y1, x0:x1], (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return np.asarray(scaled, dtype=np.uint8)


def _turned(frame: Any, width: int, height: int) -> NDArray[np.uint8]:
    """A picture scaled to ``width`` x ``height`` as stored, in RGB, turned for display."""
    small = frame.reformat(width, height, "rgb24", interpolation="BILINEAR", threads=1).to_ndarray()
    return np.rot90(small, k=-(clockwise(frame) // 90))


def _fit(frame: Any, aspect: float, crop: Crop, size: int) -> NDArray[np.uint8]:
    """(size, size, 3) uint8 RGB."""
    width, height = size, size
    if crop == "center":
        # Anamorphic video: pixels that are not square are made so, or the dancer is narrow.
        shown_width = frame.width * aspect
        scale = round(size * _SHORT_SIDE) / min(shown_width, frame.height)
        width, height = max(size, round(shown_width * scale)), max(size, round(frame.height * scale))
    small = _turned(frame, width, height)
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


def _pictures(
    uri: str, clock: Timeline, seek: float | None, damage: _Damage, *, skip: str = "DEFAULT"
) -> Generator[_Shown, None, None]:
    """Decoded pictures with strictly rising times, from 0 or from a keyframe at or before ``seek`` seconds.

    ``skip`` is FFmpeg's word for the pictures that the decoder may leave out.
    """
    with open_video(uri) as (container, stream):
        stream.codec_context.skip_frame = skip
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
        except MemoryError:  # a matter of this process, not of the packet
            raise
        except av.error.FFmpegError as error:
            at = f"{packet.pts * float(stream.time_base):.2f} s, " if packet.pts is not None else ""
            damage.add("packets that cannot be decoded", f"{at}{error.strerror}")
            continue
        yield from frames


def iter_grey(uri: str, pixels: int, *, reference_only: bool = False) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Every picture of a video, small and grey, as it is displayed; one is in memory at a time.

    Args:
        pixels: about how many pixels a small picture has; its sides are to each other as the displayed picture's are.
        reference_only: leave out the pictures that no other is predicted from, such as most B-frames. A decoder then
            has less than half the work, and the pictures that remain may be any time apart.

    Yields:
        Time in seconds, strictly rising, and (height, width) uint8.

    Raises:
        VideoError: the file cannot be opened, or nothing in it can be decoded.
    """
    clock = timeline(uri)
    damage = _Damage()
    reformatter = VideoReformatter()  # keeps its tables from one picture to the next
    # Where pictures are timed by the order in which they are shown, leaving some out would move the others.
    skip = "NONREF" if reference_only and not clock.decode_order else "DEFAULT"
    size: tuple[int, int] | None = None
    for shown in _pictures(uri, clock, None, damage, skip=skip):
        frame = shown.frame
        if size is None:  # that of the first picture, whatever becomes of the size later
            ratio = frame.width * shown.aspect / frame.height
            size = max(1, round(math.sqrt(pixels * ratio))), max(1, round(math.sqrt(pixels / ratio)))
        small = reformatter.reformat(frame, *size, "gray", interpolation="AREA", threads=1).to_ndarray()
        yield shown.time, np.ascontiguousarray(np.rot90(small, k=-(clockwise(frame) // 90)))
    if size is None:
        raise VideoError(str(uri), "corrupt", expected="a picture that can be decoded", found=str(damage) or "none")


def iter_frames(uri: str, fps: float, longest: int) -> Iterator[NDArray[np.uint8]]:
    """The analysis frames of a whole video as they are displayed, one at a time; a damaged end repeats the last one.

    Args:
        fps: analysis rate, frames a second.
        longest: pixels of the longer side that are not exceeded; smaller pictures stay as they are.

    Yields:
        (height, width, 3) uint8 RGB, all of one size, with even sides.

    Raises:
        VideoError: the file cannot be opened, or nothing in it can be decoded.
    """
    clock = timeline(uri)
    damage = _Damage()
    count, n = analysis_frames(clock.end, fps), 0
    size: tuple[int, int] | None = None
    shown: _Shown | None = None
    rgb: NDArray[np.uint8] | None = None  # of `shown`
    for picture in chain(_pictures(uri, clock, None, damage), [None]):
        while shown and n < count and (picture is None or n / fps <= (shown.time + picture.time) / 2 + _SAME_S):
            size = size or shown.size_within(longest)
            if rgb is None:
                rgb = shown.whole(size)
            yield rgb
            n += 1
        shown, rgb = picture, None
        if n >= count:
            return
    if not n:
        raise VideoError(str(uri), "corrupt", expected="a picture that can be decoded", found=str(damage) or "none")


def iter_pictures(uri: str, longest: int, *, apart: float = 0.0) -> Iterator[tuple[float, float, NDArray[np.uint8]]]:
    """Every picture of a video as it is displayed, when it is displayed; one is in memory at a time.

    Args:
        longest: pixels of the longer side that are not exceeded; smaller pictures stay as they are.
        apart: seconds; pictures that follow sooner on one that was given are left out.

    Yields:
        Time and duration in seconds, times strictly rising, and (height, width, 3) uint8 RGB, all of one size, with
        even sides.

    Raises:
        VideoError: the file cannot be opened, or nothing in it can be decoded.
    """
    damage = _Damage()
    size: tuple[int, int] | None = None
    last = -math.inf
    for shown in _pictures(uri, timeline(uri), None, damage):
        if shown.time - last >= apart:
            size, last = size or shown.size_within(longest), shown.time
            yield shown.time, shown.duration, shown.whole(size)
    if size is None:
        raise VideoError(str(uri), "corrupt", expected="a picture that can be decoded", found=str(damage) or "none")
