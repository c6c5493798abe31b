"""What moves in a video apart from the camera: small grey pictures in, heat maps of motion out.

A look is taken about every :data:`STEP_S` seconds. The camera's movement between neighbouring looks is taken out before
they are compared, and a look that differs from the one before as none of its neighbours do starts a new shot. What is
seen depends on the pictures alone, not on a rate that features are made at.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise, takewhile
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from balletal.video.camera import STILL, Move, Picture, camera_move, misfit, warped

STEP_S = 0.12
"""Seconds between looks: a limb moves by about its own width."""
PIXELS = 160 * 90
"""Pixels of a small grey picture, whatever its shape."""
CELL = 5
"""Side of a heat map's cell in small pixels, nearly."""

# Grey levels that a pixel must differ by: at least, and in multiples of what most of the picture does.
_LEVELS, _NOISE, _MOST = 2.5, 4.0, 8.0
# How wrong the estimate of a moving camera may be, small pixels: an edge differs by that times its slope.
_ASTRAY = 0.6
# A change of brightness that is seen to, and the grey level above which a place tells of it.
_FADE, _LIT = 0.02, 12.0
# What stays in place under a moving camera may count this much.
_MARK = 2.0
# Of a picture's cells, how many may be hot before it is the light that changed, or a cut, and nobody who moved.
_EVERYWHERE = 0.6
# A cut: mean difference in grey levels, its ratio to those of the two looks on either side, likeness; share of the
# picture that does not go along with the camera, and its ratio.
_CUT_LEVELS, _CUT_TIMES, _CUT_LIKE = 2.0, 2.5, 0.9
_CUT_SHARE, _CUT_ODDER = 0.29, 1.7

T = TypeVar("T")


@dataclass(frozen=True)
class Look:
    """Motion at one time.

    Attributes:
        time: seconds.
        since: where ``first``, the time of the first picture of the shot, which may be a little before ``time``.
        first: a new shot starts here.
        heat: (rows, columns) float32, how much moved in each cell apart from the camera: mean over the cell of the
            grey levels above those that noise makes, and of :data:`_MOST` of them.
        move: what the camera did since the look before, in cells.
    """

    time: float
    since: float
    first: bool
    heat: NDArray[np.float32]
    move: Move


@dataclass(frozen=True)
class _Seen:
    """A picture looked at, and what changed since the one before.

    Attributes:
        since: time of the picture that differs most from its predecessor, of those since the look before.
        move: what the camera did.
        change: mean difference in grey levels, the camera's move apart.
    """

    time: float
    since: float
    picture: Picture
    move: Move
    change: float
    first: bool = False


def looks(pictures: Iterable[tuple[float, NDArray[np.uint8]]]) -> Iterator[Look]:
    """Heat maps of small grey pictures, all of one size, with rising times in seconds.

    A heat map compares a picture with the look before and the one behind, and keeps what differs from both: what moved
    is then seen where it is, and not where it was and will be. At either end of a shot the next two stand in.
    """
    for seen, before, behind in _among(_cut(_seen(pictures)), 2):
        # Those of the same shot, and of the other pictures how they lie to this one: the nearest first.
        past = [] if seen.first else before[::-1][: 1 if before[-1].first else 2]
        future = list(takewhile(lambda later: not later.first, behind))
        move = STILL if seen.first else seen.move.scaled(1 / CELL)
        yield Look(seen.time, seen.since, seen.first, _heat(seen, past, future), move)


def _among(items: Iterable[T], reach: int) -> Iterator[tuple[T, list[T], list[T]]]:
    """Every item with up to ``reach`` items before and behind it, in order."""
    near: deque[T] = deque()
    at = 0  # of the item that is next
    for item in items:
        near.append(item)
        if len(near) - at > reach:
            yield near[at], list(near)[max(0, at - reach) : at], list(near)[at + 1 :]
            at += 1
            if at > reach:
                near.popleft()
                at -= 1
    while at < len(near):
        yield near[at], list(near)[max(0, at - reach) : at], list(near)[at + 1 :]
        at += 1


def _seen(pictures: Iterable[tuple[float, NDArray[np.uint8]]]) -> Iterator[_Seen]:
    """The pictures to look at, each compared with the one before."""
    last: _Seen | None = None
    for time, since, grey in _thinned(pictures):
        picture = Picture(grey)
        if last is None:
            last = _Seen(time, since, picture, STILL, 0.0)
        else:
            move = camera_move(last.picture, picture, last.move)
            ahead = warped(picture.blurred, move)
            last = _Seen(
                *(time, since, picture, move),
                change=float(cv2.mean(cv2.absdiff(ahead, last.picture.blurred))[0]),
            )
        yield last


def _thinned(pictures: Iterable[tuple[float, NDArray[np.uint8]]]) -> Iterator[tuple[float, float, NDArray[np.uint8]]]:
    """The pictures nearest to the multiples of the step: time, time of the greatest change on the way, picture."""
    held: tuple[float, float, NDArray[np.uint8]] | None = None
    greatest, due = -1.0, 0
    for time, grey in pictures:
        since = time
        if held is not None:
            if due * STEP_S <= (held[0] + time) / 2:
                yield held
                due = int((held[0] + time) / 2 / STEP_S) + 1
                greatest = -1.0
            change = float(cv2.norm(held[2], grey, cv2.NORM_L1))
            since = time if change > greatest else held[1]
            greatest = max(greatest, change)
        held = time, since, grey
    if held is not None:
        yield held


def _likeness(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    one, other = one - one.mean(), other - other.mean()
    scale = float(np.sqrt((one * one).sum() * (other * other).sum()))
    return float((one * other).sum()) / scale if scale > 0 else 1.0


def _cut(stream: Iterable[_Seen]) -> Iterator[_Seen]:
    """Say where shots start: a cut changes the whole picture, and alone. A dancer who turns fast, or a flash, does so
    several looks long, and one who is somewhere else at once leaves most of the picture as it was."""
    for seen, before, after in _among(stream, 2):
        around = max((near.change for near in (*before, *after)), default=0.0)
        cut = bool(before) and seen.change > max(_CUT_LEVELS, _CUT_TIMES * around)
        if cut and _likeness(before[-1].picture.blurred, warped(seen.picture.blurred, seen.move)) > _CUT_LIKE:
            cut = False
        if cut:
            pairs = pairwise([*before, seen, *after])
            odd = {id(now): misfit(last.picture, now.picture, now.move.scaled(0.5)) for last, now in pairs}
            here = odd.pop(id(seen))
            cut = here > max(_CUT_SHARE, _CUT_ODDER * max(odd.values(), default=0.0))
        yield replace(seen, first=cut or not before)


def _heat(seen: _Seen, past: list[_Seen], future: list[_Seen]) -> NDArray[np.float32]:
    """(rows, columns) what differs from both pictures around this one; ``past`` and ``future`` the nearest first."""
    height, width = seen.picture.blurred.shape
    rows, columns = max(1, round(height / CELL)), max(1, round(width / CELL))
    # With each picture, where this one's places are in it.
    back = accumulate((one.move.inverse() for one in (seen, *past)), Move.then)
    ahead = accumulate((one.move for one in future), Move.then)
    before, behind = list(zip(past, back, strict=False)), list(zip(future, ahead, strict=True))
    others = [*before[:1], *behind[:1]] if before and behind else [*before, *behind]
    if len(others) < 2:
        return np.zeros((rows, columns), np.float32)
    differs = [_differs(seen.picture, other.picture, move) for other, move in others]
    both = np.minimum(differs[0], differs[1])
    noise = _NOISE * float(np.median(both[::3, ::3]))
    excess = both - max(_LEVELS, noise)
    excess = np.clip(excess, 0, _MOST, out=excess)
    heat = np.asarray(cv2.resize(excess, (columns, rows), interpolation=cv2.INTER_AREA), np.float32)
    if float((heat > 1).mean()) > _EVERYWHERE:
        heat = np.zeros_like(heat)
    return heat


def _differs(picture: Picture, other: Picture, move: Move) -> NDArray[np.float32]:
    """(height, width) grey levels by which a picture and another one, moved onto it and as bright, differ."""
    there = other.blurred
    brighter = _brighter(picture, other)
    if abs(brighter - 1) > _FADE:
        there = there * np.float32(brighter)
    still = cv2.absdiff(picture.blurred, there)
    if move == STILL:
        return np.asarray(still, np.float32)
    moved = cv2.absdiff(picture.blurred, warped(there, move, onto=picture.blurred)) - _ASTRAY * picture.slope
    # What does not go along with the camera at all is no part of the scene: a broadcaster's mark.
    return np.asarray(cv2.min(moved, _MARK * still), np.float32)


def _brighter(picture: Picture, other: Picture) -> float:
    """By how much most of a picture is brighter than the other: scenes fade in, cameras set their exposure."""
    if abs(picture.mean - other.mean) < _FADE / 2 * other.mean:
        return 1.0
    here, there = picture.blurred[::3, ::3].ravel(), other.blurred[::3, ::3].ravel()
    lit = (here > _LIT) & (there > _LIT)
    if np.count_nonzero(lit) < len(lit) // 20:
        return 1.0
    return float(np.median(here[lit] / there[lit]))
