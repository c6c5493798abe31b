"""Pictures in, clips for the network out, while a video is still going on.

pictures as they come -> analysis frames: of each, the nearest picture, as :func:`balletal.video.decode.read_frames` has
it -> crops -> whole windows, for :meth:`balletal.features.extractor.Extractor.extract`
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from balletal.backbones.spec import FeatureSpec
from balletal.errors import InputError
from balletal.video.clips import analysis_frames, clip_count, clip_times
from balletal.video.live_track import LiveTrack
from balletal.video.motion import PIXELS
from balletal.video.picture import SAME_S, Grey, Shown, shows
from balletal.video.track import CropTrack

GAP_S = 2.0
"""Seconds between pictures up to which they stand in for what lies between; above, no clip is made of it."""

Source = TypeVar("Source")


@dataclass(frozen=True)
class Clips:
    """A run of clips.

    Attributes:
        pixels: (n, size, size, 3) uint8 RGB, the analysis frames from that on with which clip ``first`` begins; with
            a flow stream one more than the windows have, where the video goes on.
        start_s: (count,) seconds at which each clip begins.
    """

    pixels: NDArray[np.uint8]
    start_s: NDArray[np.float64]

    @property
    def count(self) -> int:
        return len(self.start_s)


@dataclass
class _Run:
    """Analysis frames without a gap, from clip number ``clip`` on. ``whole``: it begins the video, and gave no clip."""

    clip: int
    whole: bool
    frames: list[NDArray[np.uint8]] = field(default_factory=list)
    closed: bool = False


@dataclass
class _Waiting(Generic[Source]):
    """An analysis frame whose square is not known yet."""

    number: int
    time: float
    source: Source


class LiveClips(Generic[Source]):
    """One video whose pictures come one by one; memory is that of some windows, and of pictures as they came.

    With ``center`` and ``full`` the clips are those of the whole video, bit for bit, whatever the rate and however
    many pictures are missing, as far as none is missing for :data:`GAP_S`. A ``dancer`` crop follows a
    :class:`balletal.video.live_track.LiveTrack`, which is near that of the whole video.

    Args:
        spec: of windowed features: dense ones see a whole unit of a video at once, and are not for this.
        decode: makes an ``av.VideoFrame`` of what :meth:`push` is given. It is called twice for a ``dancer`` crop, so
            that pictures can wait for their square as what they came as: a JPEG has a tenth of its pixels' bytes.
        picture: seconds that a picture is shown, as far as is known: how long the last one is.

    Raises:
        InputError: a spec of features that cannot be made live.
    """

    def __init__(self, spec: FeatureSpec, decode: Callable[[Source], Any], *, picture: float) -> None:
        if spec.mode != "windowed":
            raise InputError(f"feature spec {spec}", expected="windowed features, to be live", found=spec.mode)
        if not 0 < picture <= GAP_S:
            raise InputError("live pictures", expected=f"shown for up to {GAP_S:g} s", found=f"{picture} s")
        self.spec, self.decode, self.picture = spec, decode, picture
        self._shown: tuple[Shown, Source] | None = None
        self._next = 0  # the next analysis frame
        self._runs: deque[_Run] = deque([_Run(0, whole=True)])
        self._waiting: deque[_Waiting[Source]] = deque()
        self._track = self._new_track() if spec.crop == "dancer" else None
        self._grey = Grey(PIXELS)
        self._cut: tuple[Source, Shown] | None = None  # the picture that was cut last

    @property
    def delay_s(self) -> float:
        """A clip is there when a picture has come that is so many seconds behind its end, at the latest."""
        square = self._track.delay_s if self._track else 0.0
        return 2 * self.picture + ("flow" in self.spec.streams) / self.spec.fps + square

    @property
    def held(self) -> dict[str, int]:
        """What is in memory: analysis ``frames``, pictures ``waiting`` for a square, what the ``track`` looks at."""
        frames = sum(len(run.frames) for run in self._runs)
        return {"frames": frames, "waiting": len(self._waiting), "track": self._track.held if self._track else 0}

    def push(self, time: float, source: Source) -> bool:
        """Take a picture.

        Args:
            time: seconds from the first picture on.

        Returns:
            False where the picture came too late, with or behind a later one: it is left out, as in a file.

        Raises:
            InputError: a time that is none. Whatever ``decode`` raises; then nothing has changed.
        """
        if not 0 <= time < math.inf:
            raise InputError("time of a picture", expected="seconds from 0 on", found=str(time))
        last = self._shown[0] if self._shown else None
        if last and time <= last.time:
            return False
        shown = Shown(time, self.picture, self.decode(source), 1.0)
        if last and time - last.time > GAP_S:
            self._close()
            clip = max(math.ceil((time - SAME_S) / self.spec.stride_s), -(-self._next // self.spec.stride))
            self._runs.append(_Run(clip, whole=False))
            self._next = clip * self.spec.stride
            self._track = self._new_track() if self._track else None
        elif self._shown:
            while shows(self._next, self.spec.fps, self._shown[0], shown):
                self._add(*self._shown)
        if self._track:
            self._crop(self._track.push(time, self._grey.of(shown)))
        self._shown = shown, source
        return True

    def finish(self) -> None:
        """The video has ended; what is left is for :meth:`take`."""
        self._close()
        self._shown = None

    def take(self, most: int = 8) -> Clips | None:
        """Up to ``most`` of the clips that are there and were not taken, in order; None where there are none."""
        spec = self.spec
        while self._runs:
            run = self._runs[0]
            further = 0 if run.closed or "flow" not in spec.streams else 1
            frames = len(run.frames) - further
            count = clip_count(frames, spec.window, spec.stride) if frames >= spec.window else 0
            if run.closed and run.whole and 0 < frames < spec.window:
                count = 1  # a video that is shorter than a window
            if count:
                count = min(count, most)
                stop = (count - 1) * spec.stride + spec.window + ("flow" in spec.streams)
                clips = Clips(np.stack(run.frames[:stop]), clip_times(run.clip, count, spec)[0])
                del run.frames[: count * spec.stride]
                run.clip, run.whole = run.clip + count, False
                return clips
            if not run.closed:
                return None
            self._runs.popleft()
        return None

    def _new_track(self) -> LiveTrack:
        return LiveTrack(self.spec.fps, self.picture, self._next)

    def _add(self, shown: Shown, source: Source) -> None:
        """The next analysis frame is this picture."""
        if self._track:
            self._waiting.append(_Waiting(self._next, shown.time, source))
        else:
            self._keep(self._next, shown.fitted(self.spec.crop, self.spec.size, None, 0))
        self._next += 1

    def _crop(self, track: CropTrack) -> None:
        """Cut the frames whose squares are known now out of their pictures."""
        while self._waiting and self._waiting[0].number < track.first + len(track):
            frame = self._waiting.popleft()
            if self._cut is None or self._cut[0] is not frame.source:
                decoded = Shown(frame.time, self.picture, self.decode(frame.source), 1.0)
                self._cut = frame.source, decoded
            row = frame.number - track.first
            self._keep(frame.number, self._cut[1].fitted("dancer", self.spec.size, track, row))

    def _keep(self, number: int, pixels: NDArray[np.uint8]) -> None:
        run = self._runs[-1]
        if number >= run.clip * self.spec.stride:  # else it lies between clips
            run.frames.append(pixels)

    def _close(self) -> None:
        """The last picture is shown to its end; nothing follows it without a gap."""
        if self._shown:
            shown, _ = self._shown
            stop = analysis_frames(shown.time + self.picture, self.spec.fps)
            while self._next < stop:
                self._add(*self._shown)
            if self._track:
                self._crop(self._track.finish(self._next))
        self._runs[-1].closed = True
