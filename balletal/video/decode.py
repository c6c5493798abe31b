"""Frames at exact times: decoding to a fixed analysis rate from presentation timestamps.

Analysis frame ``n`` is the picture whose presentation time is nearest to ``n / fps`` seconds; of two equally near ones,
the earlier. That holds for any source rate and for variable ones, and does not depend on where reading starts.
"""

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from balletal.errors import InputError, VideoError
from balletal.video.clips import analysis_frames
from balletal.video.picture import SAME_S, Boxes, Crop, Grey, Shown, shows
from balletal.video.probe import Timeline, check_picture, open_video, timeline

# How much longer than its packets a container may say it is: headers are rounded, and some are sloppy.
_CLAIM_S = 1.0
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
    shown: Shown | None = None
    for picture in _from(uri, clock, start / fps, damage):
        while shown and n < stop and shows(n, fps, shown, picture):
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


def _from(uri: str, clock: Timeline, time: float, damage: _Damage) -> Iterator[Shown]:
    """Pictures in order of presentation, from the one shown at ``time`` or an earlier one on."""
    if clock.seekable and time > 0:
        for back in _SEEK_BACK_S:
            if time - back <= 0:
                break
            tried = _Damage()
            pictures = _pictures(uri, clock, time - back, tried)
            first = next(pictures, None)
            if first is not None and first.time <= time + SAME_S:
                damage.counts, damage.first = tried.counts, tried.first
                yield first
                yield from pictures
                return
            pictures.close()
    yield from _pictures(uri, clock, None, damage)


def _pictures(
    uri: str, clock: Timeline, seek: float | None, damage: _Damage, *, skip: str = "DEFAULT"
) -> Generator[Shown, None, None]:
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
            yield Shown(time, (frame.duration or 0) * base or nominal, frame, aspect)


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
    grey = Grey(pixels)
    # Where pictures are timed by the order in which they are shown, leaving some out would move the others.
    skip = "NONREF" if reference_only and not clock.decode_order else "DEFAULT"
    shown: Shown | None = None
    for shown in _pictures(uri, clock, None, damage, skip=skip):
        yield shown.time, grey.of(shown)
    if shown is None:
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
    shown: Shown | None = None
    rgb: NDArray[np.uint8] | None = None  # of `shown`
    for picture in chain(_pictures(uri, clock, None, damage), [None]):
        while shown and n < count and (picture is None or shows(n, fps, shown, picture)):
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
