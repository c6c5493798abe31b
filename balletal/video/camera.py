"""How the camera moved between two pictures: shift, zoom and roll of what is behind the dancer."""

import math
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

# Standard deviations in pixels: of the blur before anything, and of the neighbourhood that contrast is measured in.
_BLUR, _AROUND = 1.2, 5
# Grey levels of contrast below which a neighbourhood counts as flat, and residues count for less.
_FLAT = 4.0
# Residues, in local contrasts, above which a place does not do as the camera does.
_ODD = 0.3
# Moves below this, in pixels of the half-sized picture, are none.
_NONE = 0.06
_STEPS, _ENOUGH = 6, 0.03
# Share of the picture that does otherwise, below which a camera that seems to stand does.
_FITS = 0.2
# Local contrasts: of a place with something to see, and of a change that is none; the share of such places that may
# change before the camera.
_SEEN, _SAME, _CHANGED = 0.4, 0.1, 0.1
# Blocks of half-sized pixels; by how many local contrasts a move must explain one better.
_BLOCK, _BETTER, _SHARE, _WIDE, _HIGH, _VOTES = 5, 0.03, 0.05, 0.3, 0.3, 2.0


@dataclass(frozen=True)
class Move:
    """A similarity: ``z`` goes to ``turn * z + shift``, where ``z`` is x + iy in pixels from the picture's middle."""

    shift: complex = 0j
    turn: complex = 1 + 0j

    def inverse(self) -> "Move":
        return Move(-self.shift / self.turn, 1 / self.turn)

    def then(self, other: "Move") -> "Move":
        return Move(other.turn * self.shift + other.shift, other.turn * self.turn)

    def scaled(self, factor: float) -> "Move":
        """The same in pixels ``1 / factor`` times as large."""
        return Move(self.shift * factor, self.turn)

    def matrix(self, shape: tuple[int, int]) -> NDArray[np.float64]:
        """(2, 3), for pixel numbers of a picture of (height, width)."""
        middle = complex((shape[1] - 1) / 2, (shape[0] - 1) / 2)
        offset = middle + self.shift - self.turn * middle
        return np.array([[self.turn.real, -self.turn.imag, offset.real], [self.turn.imag, self.turn.real, offset.imag]])

    def reach(self, shape: tuple[int, int]) -> float:
        """The largest distance that it moves a corner, about, in pixels."""
        return abs(self.shift) + abs(self.turn - 1) * math.hypot(*shape) / 2


STILL = Move()


class Picture:
    """A small grey picture, blurred, with what comparing it takes; computed when it is asked for."""

    def __init__(self, grey: NDArray[np.uint8]) -> None:
        self.blurred = np.asarray(cv2.GaussianBlur(grey.astype(np.float32), (0, 0), _BLUR), np.float32)

    @cached_property
    def mean(self) -> float:
        return float(cv2.mean(self.blurred)[0])

    @cached_property
    def slope(self) -> Array:
        """(height, width) grey levels a pixel."""
        across, down = _slopes(self.blurred)
        return np.asarray(cv2.magnitude(across, down), np.float32)

    @cached_property
    def contrast(self) -> Array:
        """(height / 2, width / 2): how a pixel differs from those around it, in local standard deviations.

        So that a bright dancer before a dark curtain has no more say in how the camera moves than the curtain has.
        """
        half = cv2.resize(self.blurred, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        size = (2 * _AROUND + 1, 2 * _AROUND + 1)
        mean = cv2.blur(half, size)
        variance = np.maximum(cv2.blur(half * half, size) - mean * mean, 0)
        return np.asarray((half - mean) / np.sqrt(variance + _FLAT**2), np.float32)

    @cached_property
    def steepest(self) -> Array:
        """(4, pixels of the half picture): how ``contrast`` changes by shift in x and y, growth and turn."""
        height, width = self.contrast.shape
        across, down = _slopes(self.contrast)
        y, x = np.mgrid[:height, :width].astype(np.float32)
        x, y = (x - (width - 1) / 2) / (width / 2), (y - (height - 1) / 2) / (width / 2)
        return np.stack([across, down, across * x + down * y, down * x - across * y]).reshape(4, -1)


def _slopes(picture: Array) -> tuple[Array, Array]:
    across = np.asarray(cv2.Sobel(picture, cv2.CV_32F, 1, 0, scale=1 / 8), np.float32)
    return across, np.asarray(cv2.Sobel(picture, cv2.CV_32F, 0, 1, scale=1 / 8), np.float32)


def camera_move(before: Picture, now: Picture, last: Move) -> Move:
    """Where the camera took the background of ``before`` in ``now``; STILL where it stood or nothing can be told.

    Gauss-Newton steps on the similarity that explains most of the picture, places that do something else weighted down
    (Geman and McClure), from standing still, from going on as before (``last``) and from the correlation's peak.
    It is taken only if it explains places all over the picture that standing still does not: else it is the dancer's.
    """
    shape = before.contrast.shape
    if _stands(before, now):
        return STILL
    still = _fitted(before, now, STILL)
    if still.reach(shape) < _NONE and misfit(before, now, still) < _FITS:
        return STILL
    window = cv2.createHanningWindow(shape[::-1], cv2.CV_32F)
    # Copies: OpenCV multiplies its window into the pictures that it is given.
    peak, _ = cv2.phaseCorrelate(before.contrast.copy(), now.contrast.copy(), window)
    starts = [last.scaled(0.5), Move(complex(*peak))]
    start = min(starts, key=lambda move: misfit(before, now, move))
    best = min((still, _fitted(before, now, start)), key=lambda move: misfit(before, now, move))
    return best.scaled(2) if best.reach(shape) >= _NONE and _is_everywhere(before, now, best) else STILL


def _stands(before: Picture, now: Picture) -> bool:
    """Whether most places with something to see are as they were: the usual case, told at once."""
    seen = np.abs(before.contrast) > _SEEN
    changed = np.abs(now.contrast - before.contrast) > _SAME
    return int(np.count_nonzero(changed & seen)) <= _CHANGED * max(1, int(np.count_nonzero(seen)))


def _fitted(before: Picture, now: Picture, move: Move) -> Move:
    """The move near ``move`` that fits best, in pixels of the half-sized pictures."""
    half_width = before.contrast.shape[1] / 2
    for _ in range(_STEPS):
        residue = (warped(now.contrast, move) - before.contrast).ravel()
        weighted = before.steepest * (1 + (residue / _ODD) ** 2) ** -2
        # The ridge keeps zoom and roll at rest in a picture that does not tell them from shifts.
        normal = weighted @ before.steepest.T + np.diag([0.5, 0.5, 2, 2]).astype(np.float32)
        step = -np.linalg.solve(normal, weighted @ residue)
        move = Move(move.shift + complex(step[0], step[1]), move.turn + complex(step[2], step[3]) / half_width)
        if np.abs(step).max() < _ENOUGH or move.reach(before.contrast.shape) > before.contrast.shape[1]:
            break
    return move


def misfit(before: Picture, now: Picture, move: Move) -> float:
    """Share of the picture, in [0, 1), that does otherwise than ``move`` (in pixels of the half-sized pictures)."""
    squared = ((warped(now.contrast, move) - before.contrast) / _ODD) ** 2
    return float((squared / (1 + squared)).mean())


def _is_everywhere(before: Picture, now: Picture, move: Move) -> bool:
    """Whether ``move`` explains more than one place of the picture better than standing still does, and few worse."""
    height, width = before.contrast.shape
    blocks = (max(4, round(width / _BLOCK)), max(4, round(height / _BLOCK)))
    still = cv2.absdiff(now.contrast, before.contrast)
    moved = cv2.absdiff(warped(now.contrast, move, onto=now.contrast), before.contrast)
    gain = cv2.resize(still - moved, blocks, interpolation=cv2.INTER_AREA)
    better, worse = gain > _BETTER, gain < -_BETTER
    wide = better.any(axis=0).mean(), better.any(axis=1).mean()
    return bool(better.sum() > _VOTES * worse.sum() and better.mean() > _SHARE and wide[0] > _WIDE and wide[1] > _HIGH)


def warped(picture: Array, move: Move, onto: Array | None = None) -> Array:
    """``picture`` as it looked before ``move``; what it does not show is taken from ``onto``, or is its own edge."""
    shape = (picture.shape[0], picture.shape[1])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    if onto is None:
        moved = cv2.warpAffine(picture, move.matrix(shape), shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
    else:
        moved = cv2.warpAffine(
            *(picture, move.matrix(shape), shape[::-1]),
            dst=onto.copy(),
            flags=flags,
            borderMode=cv2.BORDER_TRANSPARENT,
        )
    return np.asarray(moved, np.float32)
