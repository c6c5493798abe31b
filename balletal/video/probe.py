"""What a video file is, before any of it is used: guarded opening, size, rate, rotation, duration.

A file is opened through our own file object, never by name, and only by the demuxers of :data:`DEMUXERS`. FFmpeg
guesses a format from content: without the list a text file opens as "ANSI video" with its text readable in the
frames, and a playlist (HLS, concat, DASH) opens other files and hosts. The list holds plain containers only: one
file, which names no other. FLV and Ogg are on it because they are that and old recordings come in them; Windows Media
and MPEG program streams are not, for want of any to test with.
"""

import contextlib
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import av
import numpy as np

from balletal.errors import InputError, StorageError, VideoError
from balletal.files import open_file, version
from balletal.storage import reason

VIDEO_SUFFIXES: tuple[str, ...] = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".avi"),
    *(".ts", ".mts", ".m2ts", ".flv", ".ogv"),
)
DEMUXERS = ("mov", "matroska", "avi", "mpegts", "flv", "ogg")
# FFmpeg's own `codec_whitelist` does not stop a decoder here, so names are checked. Mainstream codecs alone: the
# rare ones are where decoders have their bugs.
CODECS = frozenset(
    (
        *("h264", "hevc", "av1", "vp8", "vp9", "mpeg4", "mpeg1video", "mpeg2video", "h263", "msmpeg4v2", "msmpeg4v3"),
        *("flv1", "mjpeg", "theora", "cinepak", "prores", "dnxhd", "dvvideo", "ffv1"),
    )
)
MAX_PIXELS = 7680 * 4320
MAX_ASPECT = 16
MAX_DURATION_S = 12 * 3600.0
MAX_PACKETS = 12 * 3600 * 240


@dataclass(frozen=True)
class VideoInfo:
    """What a video is, as displayed.

    Attributes:
        uri: local path or fsspec URI.
        duration: seconds from 0 on the presentation clock to the end of the last picture.
        fps: average rate of the source, frames a second.
        width, height: pixels as displayed: rotated, and with square pixels.
        codec: FFmpeg's name, such as ``h264``.
        rotation: degrees clockwise that the stored picture is turned for display: 0, 90, 180 or 270.
        frames: pictures in the stream, by the container's index or by counting packets.
        vfr: frame durations vary by more than the clock's rounding.
    """

    uri: str
    duration: float
    fps: float
    width: int
    height: int
    codec: str
    rotation: int
    frames: int
    vfr: bool


@dataclass(frozen=True)
class Timeline:
    """What the packets of a stream say about its clock, without decoding.

    Attributes:
        zero: presentation time 0 of the file in seconds of the stream's clock.
        end: presentation time of the end of the last picture, seconds from ``zero``.
        claimed: where the file ends by its header; above the end of every stream in it when the file was cut.
        frames: number of pictures.
        vfr: see :class:`VideoInfo`.
        seekable: timestamps run forward, so that decoding from a keyframe gives what decoding from 0 gives.
        decode_order: presentation times are unusable (AVI with B-frames has none); frames are timed in the order
            in which the decoder shows them.
    """

    zero: float
    end: float
    claimed: float
    frames: int
    vfr: bool
    seekable: bool
    decode_order: bool


def probe(uri: str) -> VideoInfo:
    """Look at a video: open it, read its clock, and decode one picture of it.

    Raises:
        VideoError: there is no such file, or it is not a video that can be used; ``kind`` says why.
        StorageError: it cannot be read, for no reason of its own.
    """
    clock = timeline(uri)
    with open_video(uri) as (container, stream):
        frame = first_frame(uri, container, stream)
        rotation = clockwise(frame)
        aspect = float(stream.sample_aspect_ratio or 1)
        width, height = round(frame.width * aspect), frame.height
        if rotation in (90, 270):
            width, height = height, width
        return VideoInfo(
            uri=str(uri),
            duration=clock.end,
            fps=round(clock.frames / clock.end, 6),
            width=width,
            height=height,
            codec=stream.codec_context.codec.canonical_name,
            rotation=rotation,
            frames=clock.frames,
            vfr=clock.vfr,
        )


@contextlib.contextmanager
def open_video(uri: str) -> Iterator[tuple[Any, Any]]:
    """The opened container and its main video stream (the first that is not cover art), single-threaded.

    One thread, because units of work run in parallel, and because a decoder with frame threads reports an error
    some packets late and takes good frames with it.

    Raises:
        VideoError: see :func:`probe`.
    """
    with _open_file(str(uri)) as (source, head):
        try:
            container = av.open(
                source,
                # Titles in old files are in any encoding; they must not decide whether the pictures can be read.
                metadata_errors="replace",
                options={"format_whitelist": ",".join(DEMUXERS), "protocol_whitelist": "none"},
                buffer_size=1 << 18,
            )
        except av.error.FFmpegError as error:
            raise _not_opened(str(uri), head, error) from None
        with container:
            stream = _video_stream(str(uri), container)
            stream.codec_context.thread_count = 1
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            yield container, stream


class _Source:
    """A file as PyAV reads it, which remembers a read that failed."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.seek, self.tell = file.seek, file.tell
        self.error: Exception | None = None

    def read(self, size: int) -> bytes:
        if self.error is not None:  # FFmpeg asks again
            return b""
        try:
            return self.file.read(size)
        except Exception as error:
            self.error = error
            raise


@contextlib.contextmanager
def _open_file(uri: str) -> Iterator[tuple[_Source, bytes]]:
    """A seekable file object for PyAV, and the first bytes of the file.

    A read that fails makes FFmpeg report whatever comes of it: an end of the file, a damaged packet, an index that
    cannot be read. None of that is true, so the failed read is raised in its place, or in place of no error.
    """
    expected = "a video file"
    try:
        file = open_file(uri)
    except (FileNotFoundError, NotADirectoryError):
        raise VideoError(uri, "missing", expected=expected, found="nothing there") from None
    except IsADirectoryError:
        raise VideoError(uri, "missing", expected=expected, found="a folder") from None
    except PermissionError as error:
        found = f"a file that may not be read ({reason(error)})"
        raise VideoError(uri, "unreadable", expected=expected, found=found) from None
    except OSError as error:
        raise VideoError(uri, "not-a-video", expected=expected, found=reason(error)) from None
    with file:
        source = _Source(file)
        try:
            head = source.read(16)
            if not head:
                raise VideoError(uri, "empty", expected=expected, found="0 bytes")
            source.seek(0)
            yield source, head
        except GeneratorExit:  # nobody reads on
            _drop_stashed(source)
            raise
        except Exception:
            _raise_failed(uri, source)
            raise
        _raise_failed(uri, source)


def _raise_failed(uri: str, source: _Source) -> None:
    if source.error is None:
        return
    _drop_stashed(source)
    if isinstance(source.error, StorageError | MemoryError):
        raise source.error from None
    if isinstance(source.error, InputError):
        expected, found = source.error.expected, source.error.found
        raise VideoError(uri, "changed", expected=expected, found=found) from None
    if isinstance(source.error, PermissionError):
        found = f"a file that may not be read ({reason(source.error)})"
        raise VideoError(uri, "unreadable", expected="a video file", found=found) from None
    raise StorageError(uri, expected="storage that works", found=reason(source.error)) from None


def _drop_stashed(source: _Source) -> None:
    """PyAV keeps an error of a file object until it next looks, which may be while it reads another file."""
    if source.error is not None:
        with contextlib.suppress(type(source.error)):
            av.error.err_check(0)


def _not_opened(uri: str, head: bytes, error: Exception) -> VideoError:
    if head[4:8] == b"ftyp":
        found = "an MP4 whose index (moov) cannot be read: the recording was not finished, or the file is cut"
        return VideoError(uri, "truncated", expected="a whole video file", found=found)
    if head[:4] in (b"\x1aE\xdf\xa3", b"RIFF", b"FLV\x01", b"OggS"):
        return VideoError(uri, "corrupt", expected="a readable container", found=_reason(error))
    found = f"no format of {', '.join(DEMUXERS)} ({_reason(error)})"
    return VideoError(uri, "not-a-video", expected="a video file", found=found)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _video_stream(uri: str, container: Any) -> Any:
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "no streams"
        raise VideoError(uri, "no-video-stream", expected="a video stream", found=f"only {kinds}")
    stream = streams[0]
    context = stream.codec_context
    name = context.codec.canonical_name if context is not None else "unknown to this FFmpeg"
    if name not in CODECS:
        raise VideoError(uri, "unsupported-codec", expected=f"one of {', '.join(sorted(CODECS))}", found=name)
    check_picture(uri, context.width, context.height, float(stream.sample_aspect_ratio or 1))
    return stream


def check_picture(uri: str, width: int, height: int, aspect: float = 1.0) -> None:
    """Refuse pictures that would take too much memory, stored or scaled.

    Args:
        width, height: as stored.
        aspect: of a pixel.

    Raises:
        VideoError: ``too-large``.
    """
    if width * height > MAX_PIXELS:
        expected = f"at most {MAX_PIXELS} pixels a picture"
        raise VideoError(str(uri), "too-large", expected=expected, found=f"{width} x {height}")
    sides = sorted((width * aspect, float(height)))
    if sides[1] > MAX_ASPECT * sides[0] > 0:  # a header may leave the size to the pictures
        # The short side is scaled to a fixed length: a line of pixels would become a picture of any size.
        found = f"{width} x {height} with pixels of {aspect:g} : 1"
        raise VideoError(str(uri), "too-large", expected=f"a picture of at most {MAX_ASPECT} : 1", found=found)


def first_frame(uri: str, container: Any, stream: Any) -> Any:
    """The first picture that decodes.

    Raises:
        VideoError: none does (``corrupt``).
    """
    found = "none"
    with contextlib.suppress(av.error.FFmpegError):
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.MemoryError:  # FFmpeg's kind would be suppressed with the others
                raise MemoryError from None
            except av.error.FFmpegError as error:
                found = f"none ({_reason(error)})"
                continue
            if frames:
                check_picture(uri, frames[0].width, frames[0].height)
                return frames[0]
    raise VideoError(uri, "corrupt", expected="a picture that can be decoded", found=found)


def clockwise(frame: Any) -> int:
    """Degrees clockwise to turn a decoded picture for display. FFmpeg counts the other way round."""
    return round(-frame.rotation / 90) * 90 % 360


def timeline(uri: str) -> Timeline:
    """The clock of a video.

    MP4 and MOV files have an index, which is believed. Others are read through once, packets only (some hundred
    times faster than decoding): their headers hold the longest stream's duration or none at all, and only the
    packets tell whether the clock runs backwards somewhere.

    Raises:
        VideoError: see :func:`probe`.
    """
    return _timeline(str(uri), version(str(uri)))


@functools.lru_cache(maxsize=256)
def _timeline(uri: str, version: str) -> Timeline:
    with open_video(uri) as (container, stream):
        base = float(stream.time_base)
        if container.start_time is not None:
            zero = container.start_time / av.time_base
        else:
            zero = (stream.start_time or 0) * base
        indexed = container.format.name.startswith("mov") and stream.frames and stream.duration
        clock = _indexed(stream, zero, base) if indexed else _scanned(uri, container, stream, zero, base)
    if not math.isfinite(clock.end) or clock.end <= 0 or not clock.frames:
        raise VideoError(uri, "corrupt", expected="pictures", found="a video stream without any")
    if clock.end > MAX_DURATION_S:
        expected = f"at most {MAX_DURATION_S / 3600:g} hours of video"
        raise VideoError(uri, "too-large", expected=expected, found=f"{clock.end / 3600:.1f} hours")
    return clock


def _indexed(stream: Any, zero: float, base: float) -> Timeline:
    decode_times = np.array([entry.timestamp for entry in stream.index_entries if not entry.is_discard], dtype=np.int64)
    end = ((stream.start_time or 0) + stream.duration) * base - zero
    return Timeline(zero, end, end, stream.frames, _varies(decode_times, base), seekable=True, decode_order=False)


def _scanned(uri: str, container: Any, stream: Any, zero: float, base: float) -> Timeline:
    rows: list[tuple[int, int, int]] = []
    last_s = 0.0  # the end of the longest stream: sound may go on behind the pictures
    # A cut file ends with an error: what came before it counts.
    with contextlib.suppress(av.error.FFmpegError):
        for packet in container.demux():
            if not packet.size:
                continue
            if packet.pts is not None:
                last_s = max(last_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index != stream.index:
                continue
            dts = packet.dts if packet.dts is not None else packet.pts
            pts = packet.pts if packet.pts is not None else dts
            if pts is not None and dts is not None:
                rows.append((pts, dts, packet.duration or 0))
            if len(rows) > MAX_PACKETS:
                raise VideoError(uri, "too-large", expected=f"at most {MAX_PACKETS} pictures", found="more")
    if not rows:
        return Timeline(zero, 0.0, 0.0, 0, False, seekable=False, decode_order=False)
    pts, dts, durations = np.array(rows, dtype=np.int64).T
    reordered = bool((pts != dts).any())
    # AVI stores decoding times only; what FFmpeg makes of them for B-frames is no presentation time.
    decode_order = reordered and container.format.name == "avi"
    times = dts if decode_order else np.sort(pts)
    steps = np.diff(times)
    last = int(durations[-1]) or (int(np.median(steps)) if len(steps) else 0)
    end = (times[-1] + last) * base - (times[0] * base if decode_order else zero)
    seekable = not decode_order and bool((np.diff(dts) >= 0).all())
    missing = (container.duration or 0) / av.time_base - (last_s - zero)
    if stream.frames and stream.average_rate:  # an AVI header counts its pictures
        missing = max(missing, float(stream.frames / stream.average_rate) - float(end))
    return Timeline(
        zero, float(end), float(end) + max(0.0, missing), len(rows), _varies(times, base), seekable, decode_order
    )


def _varies(times: np.ndarray, base: float) -> bool:
    steps = np.diff(times) * base
    if not len(steps):
        return False
    typical = float(np.median(steps))
    return bool((np.abs(steps - typical) > max(0.002, 0.1 * typical)).any())
