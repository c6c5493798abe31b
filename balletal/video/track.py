"""A smooth square around the dancer, found by motion alone: no network, nothing to download.

small grey pictures -> looks: heat maps of what moves, the camera apart, and where shots start -> in each shot the path
that is hottest and least jumpy -> middle and spread of the heat along it -> smoothed, read off at the analysis frames

The track is made over the whole video, at a pace of its own: it is one and the same curve at any analysis rate, and
units of work have no say in it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from balletal.errors import InputError
from balletal.video.camera import Move
from balletal.video.clips import MAX_FPS, analysis_frames
from balletal.video.decode import iter_grey
from balletal.video.motion import PIXELS, STEP_S, Look, looks
from balletal.video.path import Sights, sight, smooth
from balletal.video.probe import timeline
from schemas.arrow import TRACKS

TRACKER = "motion-1"
"""Version of the tracker; raised whenever it gives other squares than before."""

# The square's side: in spreads of the heat; least, share of the short side. A dancer smaller than that is not made
# larger: there would be no more to see.
_SPREADS, _SMALLEST = 6.2, 0.2
# Keys of a table's metadata.
_FPS, _TRACKER = "balletal.fps", "balletal.tracker"
# Looks that are followed at a time: longer shots are done in pieces, each from where the one before left her.
_PIECE = 2048
# Seconds between pictures above which too many are missing for motion to be seen.
_SPARSE_S = 3 * STEP_S


@dataclass(frozen=True)
class CropTrack:
    """Where the square crop is, at one analysis frame a row.

    Attributes:
        fps: analysis rate, frames a second.
        first: number of the analysis frame of the first row.
        center: (n, 2) float32, x and y in fractions of the displayed width and height.
        side: (n,) float32 in fractions of the displayed picture's short side, at most 1.
        mover: (n,) bool, False where nobody was found to move: there the crop is the whole picture, squeezed.
        shot: (n,) int32, number of the camera's shot, from 0 on.
    """

    fps: float
    center: NDArray[np.float32]
    side: NDArray[np.float32]
    mover: NDArray[np.bool_]
    shot: NDArray[np.int32]
    first: int = 0

    def __len__(self) -> int:
        return len(self.side)

    def slice(self, start: int, stop: int) -> "CropTrack":
        """Rows ``[start, stop)``."""
        rows = slice(start, stop)
        return CropTrack(
            *(self.fps, self.center[rows], self.side[rows], self.mover[rows], self.shot[rows]),
            first=self.first + start,
        )

    def box(self, k: int, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of row ``k``'s square in pixels of a displayed picture of that size.

        The square is inside the picture: at the border it is moved in, not cut.
        """
        side = float(self.side[k]) * min(width, height)
        left = min(max(float(self.center[k, 0]) * width - side / 2, 0.0), width - side)
        top = min(max(float(self.center[k, 1]) * height - side / 2, 0.0), height - side)
        return left, top, left + side, top + side

    def to_table(self) -> pa.Table:
        """Rows of :data:`schemas.arrow.TRACKS`; the schema's metadata holds the rate and the tracker's version."""
        frame = np.arange(self.first, self.first + len(self), dtype=np.int32)
        columns = [frame, frame / self.fps, self.center[:, 0], self.center[:, 1], self.side, self.mover, self.shot]
        metadata = {_FPS: repr(float(self.fps)), _TRACKER: TRACKER}
        return pa.table([pa.array(column) for column in columns], schema=TRACKS.with_metadata(metadata))

    @classmethod
    def from_table(cls, table: pa.Table) -> "CropTrack":
        """The inverse of :meth:`to_table`.

        Raises:
            InputError: not a table of a track.
        """
        metadata = table.schema.metadata or {}
        if not table.schema.equals(TRACKS) or _FPS.encode() not in metadata:
            raise InputError("track", expected="a table that balletal track wrote", found=str(table.schema.names))
        columns = {name: table[name].to_numpy() for name in table.schema.names}
        return cls(
            fps=float(metadata[_FPS.encode()]),
            center=np.stack([columns["x"], columns["y"]], axis=1),
            side=columns["side"],
            mover=columns["mover"],
            shot=columns["shot"],
            first=int(columns["frame"][0]) if len(table) else 0,
        )


@dataclass(frozen=True)
class Shot:
    """A shot: when its first picture is shown, when its looks are, and the squares there (None: nobody moves).

    ``middle`` is (n, 2) in fractions of width and height, ``side`` (n,) in fractions of the short side.
    """

    since: float
    times: NDArray[np.float64]
    middle: NDArray[np.float64] | None
    side: NDArray[np.float64] | None


def track_dancer(uri: str, fps: float) -> CropTrack:
    """Find the one who moves most and longest, shot by shot, and a square that holds her, at every analysis frame.

    The video is decoded once, as far as it can be; behind that the last square stays. Memory is that of one shot's
    heat maps, of at most four minutes, and of a few numbers a look.

    Args:
        uri: local path or fsspec URI.
        fps: analysis rate, frames a second.

    Returns:
        :func:`balletal.video.clips.analysis_frames` of the video's duration rows.

    Raises:
        InputError: a rate that is none.
        VideoError: the file cannot be opened, or nothing in it can be decoded.
    """
    if not 0 < fps <= MAX_FPS:
        raise InputError(str(uri), expected=f"fps above 0, at most {MAX_FPS}", found=f"fps {fps}")
    clock = timeline(uri)
    picture = clock.end / clock.frames
    try:
        shots = list(shots_of(looks(_dense(iter_grey(uri, PIXELS, reference_only=True)))))
    except _TooSparse:
        shots = list(shots_of(looks(iter_grey(uri, PIXELS))))
    return at_frames(shots, fps, 0, analysis_frames(clock.end, fps), picture)


class _TooSparse(Exception):  # noqa: N818
    """The pictures that others are predicted from are too few."""


def _dense(pictures: Iterable[tuple[float, NDArray[np.uint8]]]) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    last = 0.0
    for time, grey in pictures:
        if time - last > _SPARSE_S:
            raise _TooSparse
        last = time
        yield time, grey


def shots_of(seen: Iterable[Look], cell: tuple[int, int] | None = None) -> Iterator[Shot]:
    """Each shot's squares, from the looks of a whole video, the first of which starts a shot.

    Args:
        cell: row and column of the heat map where the dancer is at the beginning, where that is known.
    """
    shot: list[Look] = []  # the looks of the piece at hand
    times: list[float] = []
    moves: list[Move] = []
    pieces: list[Sights] = []
    since, size = 0.0, (1, 1)
    for look in chain(seen, [None]):
        if shot and (look is None or look.first or len(shot) == _PIECE):
            sights, cell = sight(np.stack([one.heat for one in shot]), [one.move for one in shot], cell)
            pieces.append(sights)
            times += [one.time for one in shot]
            moves += [one.move for one in shot]
            shot = []
        if times and (look is None or look.first):
            yield _shot(since, times, moves, pieces, size)
            times, moves, pieces, cell = [], [], [], None
        if look is None:
            return
        if look.first:
            since, size = look.since, (look.heat.shape[0], look.heat.shape[1])
        shot.append(look)


def _shot(since: float, times: list[float], moves: list[Move], pieces: list[Sights], size: tuple[int, int]) -> Shot:
    at = np.array(times)
    smoothed = smooth(
        Sights(
            np.concatenate([piece.place for piece in pieces]),
            np.concatenate([piece.variance for piece in pieces]),
            np.concatenate([piece.mass for piece in pieces]),
        ),
        moves,
        size,
    )
    if smoothed is None:
        return Shot(since, at, None, None)
    place, spread = smoothed
    rows, columns = size
    middle = (place + 0.5) / (columns, rows)
    return Shot(since, at, middle, np.clip(_SPREADS * spread / min(rows, columns), _SMALLEST, 1))


def at_frames(shots: list[Shot], fps: float, start: int, stop: int, picture: float) -> CropTrack:
    """Squares at the analysis frames ``[start, stop)``. ``picture`` is how long one of the source's is shown, in s."""
    count, times = stop - start, np.arange(start, stop) / fps
    # An analysis frame shows the nearest picture, so a shot starts half a picture before its first one.
    starts = np.array([shot.since - picture / 2 for shot in shots[1:]])
    number = np.searchsorted(starts, times - 1e-6, side="right").astype(np.int32)
    center, side = np.full((count, 2), 0.5, np.float32), np.ones(count, np.float32)
    mover = np.zeros(count, np.bool_)
    for k, shot in enumerate(shots):
        if shot.middle is None or shot.side is None:
            continue
        rows = np.flatnonzero(number == k)
        for axis in range(2):
            center[rows, axis] = np.interp(times[rows], shot.times, shot.middle[:, axis])
        side[rows] = np.interp(times[rows], shot.times, shot.side)
        mover[rows] = True
    return CropTrack(fps, center, side, mover, number, first=start)
