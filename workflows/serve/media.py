"""What an uploaded file is, found out where it can do no harm, and whether a browser plays it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from balletal.errors import VideoError
from balletal.video.guard import guarded
from balletal.video.probe import Timeline, VideoInfo, first_frame, open_video, probe, timeline
from workflows.serve.limits import Limits

T = TypeVar("T")

MEDIA_TYPES = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".mkv": "video/x-matroska",
    ".avi": "video/x-msvideo",
    ".ts": "video/mp2t",
    ".flv": "video/x-flv",
    ".ogv": "video/ogg",
}
"""The suffix that a video is kept under, by what it is and not by its name, and its media type."""

LOOK_S = 120.0
"""Seconds that looking at one video may take: most containers are read through once."""

_SUFFIXES = {"mov": ".mp4", "matroska": ".mkv", "avi": ".avi", "mpegts": ".ts", "flv": ".flv", "ogg": ".ogv"}
# What Chromium, Firefox and Safari all play, or nearly. H.264 in Matroska, HEVC and Theora are not that.
_PLAYED = {".mp4": ("h264",), ".webm": ("vp8", "vp9", "av1")}
_PIXELS = ("yuv420p", "yuvj420p")
# A browser's clock may begin elsewhere than ours, where a file's does not begin at 0.
_ZERO_S = 0.02


@dataclass(frozen=True)
class Look:
    """What was seen. ``warnings`` are for people."""

    info: VideoInfo
    suffix: str
    playable: bool
    warnings: list[str]


# Each may hold a decoder with its memory; the rest waits in line, and not in that of all other work.
_looking = ThreadPoolExecutor(4, thread_name_prefix="look")


async def looking(work: Callable[[], T]) -> T:
    """Do work that looks at a video, aside from the event loop."""
    return await asyncio.get_running_loop().run_in_executor(_looking, work)


def look(path: Path, limits: Limits) -> Look:
    """Look at a local file, in a child process.

    Raises:
        VideoError: it is no video that can be used, or one beyond the limits (``too-large``).
        GuardError: the child cannot be started.
    """
    seen = guarded(_look, str(path), uri=str(path), limit_s=LOOK_S)
    require_within(seen.info, limits)
    return seen


LIMITED = {"max_duration_s", "max_pixels", "max_fps"}
"""The limits of a video that is looked at."""


def require_within(info: VideoInfo, limits: Limits) -> None:
    """Raise a :class:`VideoError` (``too-large``) for a video beyond the limits."""
    for name, found, most in (
        ("seconds", info.duration, limits.max_duration_s),
        ("pixels a picture", info.width * info.height, limits.max_pixels),
        ("frames a second", info.fps, limits.max_fps),
    ):
        if found > most:
            raise VideoError(info.uri, "too-large", expected=f"at most {most:g} {name}", found=f"{found:g}")


def _look(path: str) -> Look:
    info, clock = probe(path), timeline(path)
    with open_video(path) as (container, stream):
        suffix = _SUFFIXES[container.format.name.split(",")[0]]
        with Path(path).open("rb") as file:
            if suffix == ".mkv" and b"webm" in file.read(64):  # the name of the document's type
                suffix = ".webm"
        cut = _cut(stream, clock, Path(path).stat().st_size) if suffix == ".mp4" else _claims_more(clock)
        pixels = first_frame(path, container, stream).format.name
    played = info.codec in _PLAYED.get(suffix, ()) and pixels in _PIXELS
    forward = clock.seekable and abs(clock.zero) <= _ZERO_S
    return Look(info, suffix, played and forward, [cut] if cut else [])


def _cut(stream: Any, clock: Timeline, size: int) -> str | None:
    """An MP4's index is believed for its clock; whether the pictures that it names are there shows here."""
    lost = [entry.timestamp for entry in stream.index_entries if entry.pos + entry.size > size]
    if not lost:
        return None
    return _told(max(0.0, min(lost) * float(stream.time_base) - clock.zero), clock.end)


def _claims_more(clock: Timeline) -> str | None:
    return _told(clock.end, clock.claimed) if clock.claimed > clock.end + 1 else None


def _told(end: float, claimed: float) -> str:
    return f"The file is cut short: it ends at {end:.2f} s, its header says {claimed:.2f} s."
