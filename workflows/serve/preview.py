"""A video as every browser plays it: H.264 in an MP4 with the index first, upright, on the clock of the original.

Made when it is first asked for, once a process however many ask. Two replicas may both make one: they make the same.
"""

import asyncio
import errno
import math
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
from av.codec.context import Flags
from av.video.frame import PictureType

from balletal import files
from balletal.errors import StorageError, VideoError
from balletal.storage import reason
from balletal.video.decode import iter_pictures
from balletal.video.guard import GuardError, guarded
from balletal.video.probe import open_video, timeline
from workflows.serve.bodies import scratch
from workflows.serve.library import Library, StoredVideo
from workflows.serve.problems import Problem, video_problem

LONGEST = 960
"""Pixels of the longer side."""

MAX_KBIT_S = 2000
"""Of the pictures, averaged over two seconds: an hour takes 0.9 GB at most."""

WAIT_S = 20.0
"""How long a request waits for a preview before it is told to come again."""

_TICKS = 90_000  # a second
_APART_S = 0.0125  # 60 frames a second pass, even with jitter; 120 are halved
_SOUND_CODECS = frozenset(("aac", "mp3", "mp2", "opus", "vorbis", "flac", "ac3", "amr_nb", "alac", "pcm_s16le"))
_SOUND_RATE = 48_000

_pool = ThreadPoolExecutor(2, thread_name_prefix="preview")
_making: dict[str, Future[None]] = {}
_lock = threading.Lock()


async def preview(library: Library, video: StoredVideo) -> tuple[str, int]:
    """The preview of a video, made if need be.

    Returns:
        Its URI and its bytes.

    Raises:
        Problem: 503 while it is being made; 422 when it cannot be made, now or by an earlier attempt.
        StorageError: it cannot be kept.
    """
    uri, size = await asyncio.to_thread(_made, library, video)
    if not size:
        making = asyncio.wrap_future(_start(library, video))
        done, _ = await asyncio.wait({making}, timeout=WAIT_S)
        if not done:
            raise Problem(503, "not-ready", "Preview not ready", "The preview is being made. Try again later.")
        try:
            making.result()
        except VideoError as error:
            raise video_problem(error) from None
        except GuardError:
            raise Problem(503, "busy", "Busy", "No preview can be made now. Try again later.") from None
        uri, size = await asyncio.to_thread(_made, library, video)
    if not size:
        raise Problem(404, "not-found", "No such video", "The video was removed.")
    return uri, size


def _made(library: Library, video: StoredVideo) -> tuple[str, int]:
    sizes = files.list_sizes(library.data.folder("videos", video.video_id))
    if "preview.json" in sizes:
        failed = files.read_json(_verdict(library, video))
        raise video_problem(VideoError("the video", failed["kind"], expected=failed["expected"], found=failed["found"]))
    return library.preview(video), sizes.get("preview.mp4", 0)


def _start(library: Library, video: StoredVideo) -> Future[None]:
    uri = library.preview(video)
    with _lock:
        making = _making.get(uri)
        if making is None:
            making = _making[uri] = _pool.submit(_make, library, video)
            making.add_done_callback(lambda _: _making.pop(uri, None))
        return making


def _make(library: Library, video: StoredVideo) -> None:
    source = library.content(video)
    with scratch(library.data.folder("videos", video.video_id)) as folder:
        made = folder / "preview.mp4"
        try:
            guarded(write_preview, source, str(made), uri=source, limit_s=120 + 2 * video.duration)
        except VideoError as error:
            # Told at once from now on: another attempt would take as long.
            told = str(error.found).replace(source, "the video")
            files.write_json(_verdict(library, video), {"kind": error.kind, "expected": error.expected, "found": told})
            raise
        files.move_file(made, library.preview(video))
    if not library.exists(video.video_id):  # removed meanwhile
        library.remove(video.video_id)


def _verdict(library: Library, video: StoredVideo) -> str:
    return files.join(library.data.folder("videos", video.video_id), "preview.json")


def write_preview(uri: str, path: str) -> None:
    """Write the preview of the video at ``uri`` to a local file. Runs where decoding can do no harm.

    The first picture is shown from 0 on, as it is for :func:`balletal.video.decode.read_frames`; the others when the
    original shows them, up to 60 a second. There is a keyframe at the first picture of every second.

    Raises:
        VideoError: nothing can be decoded.
        StorageError: the file cannot be written.
    """
    try:
        with av.open(path, "w", format="mp4", options={"movflags": "+faststart"}) as container:
            _write(container, uri)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise
        raise StorageError(path, expected="a place that can be written to", found=reason(error)) from None


def _write(container: Any, uri: str) -> None:
    stream = container.add_stream("libx264", rate=60)
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = Fraction(1, _TICKS)
    # No B-frames: times of presentation are then those of decoding, and no player has to be trusted with the shift.
    # Keyframes where they are asked for. Colours are BT.601, as OpenCV converts them.
    colours = ":".join(f"{name}=smpte170m" for name in ("colorprim", "transfer", "colormatrix"))
    rate = f"crf=24:vbv-maxrate={MAX_KBIT_S}:vbv-bufsize={2 * MAX_KBIT_S}"
    params = f"{rate}:bframes=0:keyint=infinite:scenecut=0:{colours}"
    stream.codec_context.flags |= Flags.frame_duration  # or the last picture would last a tick
    stream.options = {"preset": "veryfast", "threads": "1", "forced-idr": "1", "x264-params": params}
    sound = _Sound(container, uri)
    second, last_pts = -1, -1
    for n, (time, duration, picture) in enumerate(iter_pictures(uri, LONGEST, apart=_APART_S)):
        if n == 0:
            stream.height, stream.width = picture.shape[:2]
        planes = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420), np.uint8)
        frame = av.VideoFrame.from_ndarray(planes, "yuv420p")
        frame.time_base, frame.pts = Fraction(1, _TICKS), max(last_pts + 1, round(time * _TICKS)) if n else 0
        frame.duration = round(duration * _TICKS)
        last_pts = frame.pts
        if math.floor(time) > second:
            second = math.floor(time)
            frame.pict_type = PictureType.I
        container.mux(stream.encode(frame))
        sound.write_until(time)
    container.mux(stream.encode())
    sound.write_until(math.inf)


class _Sound:
    """The sound of a video as AAC, written piece by piece beside the pictures; none where there is none to be had."""

    def __init__(self, container: Any, uri: str) -> None:
        self.container = container
        self.pieces = self._decoded(uri)
        self.next = next(self.pieces, None)
        self.stream: Any = None
        if self.next is not None:
            self.stream = container.add_stream("aac", rate=_SOUND_RATE, layout="stereo")
            self.stream.bit_rate = 128_000

    def write_until(self, time: float) -> None:
        """Write what begins before ``time`` seconds; with infinity the rest."""
        while self.next is not None and self.next.pts / _SOUND_RATE < time:
            self.container.mux(self.stream.encode(self.next))
            self.next = next(self.pieces, None)
        if time == math.inf and self.stream is not None:
            self.container.mux(self.stream.encode())

    @staticmethod
    def _decoded(uri: str) -> Iterator[Any]:
        """Frames of 48 kHz stereo whose ``pts`` count samples from the video's 0, without a jump back."""
        zero, end = timeline(uri).zero, timeline(uri).end
        with open_video(uri) as (container, _):
            streams = [one for one in container.streams.audio if one.codec_context is not None]
            if not streams or streams[0].codec_context.codec.canonical_name not in _SOUND_CODECS:
                return
            resampler = av.AudioResampler("fltp", "stereo", _SOUND_RATE)
            position = 0
            try:
                for frame in container.decode(streams[0]):
                    if frame.pts is None:
                        continue
                    begins = float(frame.pts * frame.time_base) - zero
                    if begins >= end:
                        return
                    frame.pts = None
                    for piece in resampler.resample(frame):
                        at = round(begins * _SOUND_RATE)
                        if begins >= 0 and at >= position - _SOUND_RATE // 20:
                            # Small differences are rounding; a gap stays a gap.
                            position = at if at > position + _SOUND_RATE // 20 else position
                            piece.pts, piece.time_base = position, Fraction(1, _SOUND_RATE)
                            position += piece.samples
                            yield piece
                        begins += piece.samples / _SOUND_RATE
            except av.error.FFmpegError:  # the sound ends where it cannot be read; the pictures go on
                return
