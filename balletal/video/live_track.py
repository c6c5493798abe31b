"""The dancer's square while a video is still going on: the tracker's own steps, over the last seconds again and again.

pictures of the last moments -> looks, as soon as those around them are known -> with the looks of some seconds before,
the path and its smoothing as over a whole video -> squares up to :data:`LOOK_AHEAD_S` before the last look, for good

It differs from :func:`balletal.video.track.track_dancer` in what it knows: of what comes, those moments; of what was,
:data:`_MEMORY_S`, and where the square was then. So its squares are near those of the whole video, not the same: on
synthetic ballet (3 videos of 20 s a preset) nearly all of her is inside on 99, 98 and 98 % of the frames, with the
whole video in view on 100, 100 and 98 %. Twice the look-ahead gains half a per cent.
"""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from balletal.video.motion import STEP_S, Look, looks
from balletal.video.picture import SAME_S
from balletal.video.track import CropTrack, Shot, at_frames, shots_of

LOOK_AHEAD_S = 1.0
"""Seconds of looks behind an analysis frame that its square is made from, at the least."""

# Seconds of looks before, half of the longest smoothing.
_MEMORY_S = 12.0
# Looks whose neighbours tell whether they are a cut, and what moved: two of two to either side, and the last picture
# of those at hand stands where no look would.
_AROUND = 5
# Seconds from one round to the next.
_ROUND_S = 8 * STEP_S


class LiveTrack:
    """Squares of one stretch of video, piece by piece; memory is that of some seconds of small pictures and looks.

    Args:
        fps: analysis rate, frames a second.
        picture: how long a picture is shown, seconds.
        first: number of the first analysis frame.
    """

    def __init__(self, fps: float, picture: float, first: int = 0) -> None:
        self.fps, self.picture, self.decided = fps, picture, first
        self._pictures: list[tuple[float, NDArray[np.uint8]]] = []
        self._round = -math.inf  # when the last round was
        self._looks: list[Look] = []
        self._cell: tuple[int, int] | None = None  # where the dancer was at the first of them
        self._shot = 0  # the number of its shot

    @property
    def delay_s(self) -> float:
        """A square is known when a picture has come that is so many seconds behind its frame, at the latest."""
        look = max(STEP_S, self.picture)
        return LOOK_AHEAD_S + (_AROUND + 1) * look + _ROUND_S + self.picture

    @property
    def held(self) -> int:
        """Small pictures and heat maps in memory."""
        return len(self._pictures) + len(self._looks)

    def push(self, time: float, grey: NDArray[np.uint8]) -> CropTrack:
        """Take a picture of :class:`balletal.video.picture.Grey`; times in seconds rise.

        Returns:
            The squares that are known now and were not before, those of the analysis frames from ``decided`` on.
        """
        if not self._pictures:
            self._round = time
        self._pictures.append((time, grey))
        if time - self._round < _ROUND_S:
            return self._squares([], self.decided)
        self._round = time
        self._look(list(looks(self._pictures)), _AROUND)
        if not self._looks:
            return self._squares([], self.decided)
        stop = math.floor((self._looks[-1].time - LOOK_AHEAD_S + SAME_S) * self.fps) + 1
        return self._settled(max(stop, self.decided))

    def finish(self, stop: int) -> CropTrack:
        """No picture comes any more: the squares of the analysis frames up to ``stop``."""
        self._look(list(looks(self._pictures)), 0)
        return self._settled(stop)

    def _look(self, seen: list[Look], around: int) -> None:
        """Take over the looks that the next pictures will not change, and let go of the pictures before them."""
        known = seen[: len(seen) - around]
        last = self._looks[-1].time if self._looks else -math.inf
        self._looks += [look for look in known if look.time > last]
        if len(known) >= _AROUND:
            since = known[-_AROUND].time
            self._pictures = [(time, grey) for time, grey in self._pictures if time >= since]

    def _settled(self, stop: int) -> CropTrack:
        shots = list(shots_of(self._looks, self._cell))
        squares = self._squares(shots, stop)
        self.decided = stop
        self._forget(shots, stop / self.fps - _MEMORY_S)
        return squares

    def _squares(self, shots: list[Shot], stop: int) -> CropTrack:
        track = at_frames(shots, self.fps, self.decided, stop, self.picture)
        return replace(track, shot=track.shot + np.int32(self._shot))

    def _forget(self, shots: list[Shot], before: float) -> None:
        """Let go of the looks before a time, but for the last one of them."""
        kept = max(0, sum(look.time < before for look in self._looks) - 1)
        if not kept:
            return
        number = sum(look.first for look in self._looks[1 : kept + 1])
        first, shot = self._looks[kept], shots[number]
        self._cell = None
        if shot.middle is not None and not first.first:
            rows, columns = first.heat.shape
            x, y = shot.middle[np.searchsorted(shot.times, first.time)]
            self._cell = min(int(y * rows), rows - 1), min(int(x * columns), columns - 1)
        self._looks = [replace(first, first=True), *self._looks[kept + 1 :]]
        self._shot += number
