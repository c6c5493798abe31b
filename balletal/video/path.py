"""One mover's way through heat maps: which cells she is in, then where in them and how far she spreads."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from balletal.video.camera import Move
from balletal.video.motion import STEP_S

# Cells that a mover may go in a step, what going d of them costs (times d squared), and what each costs on top where
# there is no heat to go to: who stands still is waited for, and nobody runs from her to another who moves.
_REACH, _FAR, _BLIND = 3, 0.04, 1.2
# Heat around a cell, as a share of what is usual at the hottest cell, that counts as all there can be; as none at all.
_MOST, _LEAST = 1.5, 0.5
# Heat of a whole look, in cells times grey levels, that is somebody.
_SOMEBODY = 1.5
# Looks with somebody in them that make a mover.
_LOOKS = 4
# Half the side of the window that her heat is measured in: at first, least, most, in cells; and in spreads.
_FIRST, _NARROW, _WIDE, _SPREADS = 7.0, 2.0, 12.0, 2.5
_ROUNDS = 4
# Heat of a cell that belongs to somebody; looks before and behind in which it may be.
_HOT, _WHILE = 0.3, 4
# What a look may weigh, in multiples of the middle one.
_WEIGHT = 3.0
# Seconds over which the place and the spread are smoothed; and the spread that it is held against.
_PLACE_S, _SPREAD_S, _LONG_S = 1.0, 8.0, 24.0
# A spread is no smaller than this share of that.
_LEAST_SPREAD = 0.9
# What the blur of the pictures and the size of the cells add to the variance of heat, cells squared.
_SMEAR = 0.3

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sights:
    """What is seen of the mover, look by look.

    Attributes:
        place: (n, 2) x and y of the middle of her heat, in cells from the middle of the first one.
        variance: (n,) mean squared distance of her heat from there, cells squared.
        mass: (n,) how much heat; below what somebody has, the other two mean nothing.
    """

    place: Array
    variance: Array
    mass: Array

    def __len__(self) -> int:
        return len(self.mass)


def sight(
    heats: NDArray[np.float32], moves: Sequence[Move], start: tuple[int, int] | None = None
) -> tuple[Sights, tuple[int, int]]:
    """Follow one mover through heat maps, from the cell ``start`` on if one is given.

    Args:
        heats: (n, rows, columns), n > 0.
        moves: n, of the camera, each since the look before.

    Returns:
        What is seen of her, and the cell (row, column) that she is in at the end.
    """
    cells = _hottest_path(_evidence(heats), _in_cells(moves), start)
    heats = _hers(heats, cells)
    place = cells[:, ::-1].astype(np.float64)
    half = np.full(len(heats), _FIRST)
    size = (heats.shape[1], heats.shape[2])
    for last in range(_ROUNDS - 1, -1, -1):
        seen = _measured(heats, place, half)
        if last and (smoothed := smooth(seen, moves, size)) is not None:
            place, spread = smoothed
            half = np.clip(_SPREADS * spread, _NARROW, _WIDE)
    return seen, (int(cells[-1, 0]), int(cells[-1, 1]))


def _evidence(heats: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, rows, columns) in [0, sqrt(_MOST)]: how much speaks for somebody in the cell, by the heat around it."""
    around = np.stack([cv2.GaussianBlur(heat, (0, 0), 1.5) for heat in heats])
    hottest = around.max(axis=(1, 2))
    usual = float(np.median(hottest[hottest > 0.1])) if (hottest > 0.1).any() else np.inf
    return np.sqrt(np.minimum(around / usual, _MOST)).astype(np.float32)


def _hers(heats: NDArray[np.float32], cells: NDArray[np.int64]) -> NDArray[np.float32]:
    """The heat that hangs together with that in and next to ``cells``, over a second and gaps of two cells.

    Lamps that flicker, other people and the edges of the scenery are left out, as far as they stand apart.
    """
    n = len(heats)
    kept = np.zeros_like(heats)
    bridge = np.ones((3, 3), np.uint8)
    for k in range(n):
        hot = (heats[max(0, k - _WHILE) : k + _WHILE + 1].max(axis=0) > _HOT).astype(np.uint8)
        _, parts = cv2.connectedComponents(cv2.dilate(hot, bridge), connectivity=8)
        y, x = cells[k]
        part = parts[y, x]
        if part:
            kept[k] = np.where(parts == part, heats[k], 0)
    return kept


def _in_cells(moves: Sequence[Move]) -> NDArray[np.int64]:
    """(n, 2) whole rows and columns that the camera shifts the picture by; what is left over goes to the next look."""
    shifts = np.cumsum([(move.shift.imag, move.shift.real) for move in moves], axis=0)
    return np.diff(np.round(shifts), axis=0, prepend=0.0).astype(np.int64)


def _hottest_path(
    evidence: NDArray[np.float32], shifts: NDArray[np.int64], start: tuple[int, int] | None
) -> NDArray[np.int64]:
    """Viterbi: (n, 2) row and column of the path with the most evidence along it, less the cost of its steps.

    Steps count from where the camera's shift takes the cell before.
    """
    n, rows, columns = evidence.shape
    reach = range(-_REACH, _REACH + 1)
    steps = np.array([(dy, dx) for dy in reach for dx in reach if dy * dy + dx * dx <= _REACH * _REACH + 1])
    far = np.hypot(steps[:, 0], steps[:, 1]).astype(np.float32)[:, None]
    # Where a step comes from, in a score map with a margin that nothing comes from.
    margin = columns + 2 * _REACH
    inner = ((np.arange(rows) + _REACH)[:, None] * margin + np.arange(columns) + _REACH).ravel()
    origins = inner[None, :] + (steps[:, 0] * margin + steps[:, 1])[:, None]
    score = np.full((rows + 2 * _REACH) * margin, -np.inf, np.float32)
    score[inner] = evidence[0].ravel()
    if start is not None:
        y, x = np.divmod(np.arange(rows * columns), columns)
        score[inner] -= _BLIND * np.hypot(y - start[0], x - start[1]).astype(np.float32)
    came = np.zeros((n, rows * columns), np.uint8)
    for k in range(1, n):
        if shifts[k].any():
            score[inner] = _shifted(score[inner].reshape(rows, columns), shifts[k]).ravel()
        here = evidence[k].ravel()
        reached = score[origins]
        reached -= _FAR * far**2 + far * (_BLIND * np.maximum(0, 1 - here / _LEAST))
        came[k] = reached.argmax(axis=0)
        best = reached[came[k], np.arange(rows * columns)] + here
        score[inner] = best - best.max()
    path = np.empty((n, 2), np.int64)
    at = int(score[inner].argmax())
    for k in range(n - 1, -1, -1):
        path[k] = divmod(at, columns)
        y, x = path[k] + steps[came[k, at]] - shifts[k]
        at = int(np.clip(y, 0, rows - 1) * columns + np.clip(x, 0, columns - 1))
    return path


def _shifted(score: NDArray[np.float32], shift: NDArray[np.int64]) -> NDArray[np.float32]:
    """A map whose cells go down and right by ``shift``; at the edge that they leave, the last ones stay as well."""
    rows, columns = score.shape
    down = np.clip(np.arange(rows) - shift[0], 0, rows - 1)
    return score[down[:, None], np.clip(np.arange(columns) - shift[1], 0, columns - 1)]


def _measured(heats: NDArray[np.float32], middle: Array, half: Array) -> Sights:
    """The heat in a square window around ``middle`` (n, 2) of ``half`` (n,) its side."""
    _, rows, columns = heats.shape
    x, y = np.arange(columns), np.arange(rows)
    across = np.clip(half[:, None] + 0.5 - np.abs(x - middle[:, :1]), 0, 1).astype(np.float32)
    down = np.clip(half[:, None] + 0.5 - np.abs(y - middle[:, 1:]), 0, 1).astype(np.float32)
    by_x = np.matmul(down[:, None, :], heats)[:, 0].astype(np.float64) * across
    by_y = np.matmul(heats, across[:, :, None])[:, :, 0].astype(np.float64) * down
    mass = by_x.sum(axis=1)
    some = np.maximum(mass, 1e-9)
    place = np.stack([(by_x * x).sum(axis=1) / some, (by_y * y).sum(axis=1) / some], axis=1)
    variance = (by_x * (x - place[:, :1]) ** 2).sum(axis=1) + (by_y * (y - place[:, 1:]) ** 2).sum(axis=1)
    return Sights(place, variance / some, mass)


def smooth(seen: Sights, moves: Sequence[Move], size: tuple[int, int]) -> tuple[Array, Array] | None:
    """Where the mover is at every look, and how far she spreads, in cells: (n, 2) and (n,); None where there is none.

    Looks weigh by their heat. Where nothing moves she is thought to be where the camera's moves take the place at which
    she was seen last, bent towards that at which she is seen next; before the first and behind the last such look, so
    from that one alone.

    Args:
        moves: n, of the camera, each since the look before.
        size: rows and columns of the heat maps.
    """
    somebody = seen.mass > _SOMEBODY
    if somebody.sum() < _LOOKS:
        return None
    weight = np.minimum(seen.mass / np.median(seen.mass[somebody]), _WEIGHT) * somebody + 1e-3
    looks, found = np.arange(len(seen)), np.flatnonzero(somebody)
    place = _bridged(seen.place, found, moves, size)
    middle = np.stack([_hann(place[:, axis], weight, _PLACE_S) for axis in range(2)], axis=1)
    # Going to and fro faster than the square does needs room as well.
    variance = np.maximum(seen.variance - _SMEAR, _SMEAR) + ((seen.place - middle) ** 2).sum(axis=1)
    filled = np.interp(looks, found, variance[found])
    spread = np.sqrt(_hann(filled, weight, _SPREAD_S))
    return middle, np.maximum(spread, _LEAST_SPREAD * np.sqrt(_hann(filled, weight, _LONG_S)))


def _bridged(place: Array, found: NDArray[np.int64], moves: Sequence[Move], size: tuple[int, int]) -> Array:
    """``place`` (n, 2) with what lies between, before and behind the rows ``found`` put where the camera takes it."""
    middle = complex((size[1] - 1) / 2, (size[0] - 1) / 2)
    at = place[:, 0] + 1j * place[:, 1] - middle
    for k in range(found[0] - 1, -1, -1):
        back = moves[k + 1].inverse()
        at[k] = back.turn * at[k + 1] + back.shift
    for a, b in zip(found, [*found[1:], len(at)], strict=True):
        if b == a + 1:
            continue
        seen = at[b] if b < len(at) else None
        for k in range(a + 1, min(b + 1, len(at))):
            at[k] = moves[k].turn * at[k - 1] + moves[k].shift
        if seen is not None:
            at[a + 1 : b + 1] += (seen - at[b]) * np.arange(1, b - a + 1) / (b - a)
    at += middle
    return np.stack([at.real.clip(0, size[1] - 1), at.imag.clip(0, size[0] - 1)], axis=1)


def _hann(values: Array, weight: Array, seconds: float) -> Array:
    """Weighted mean of ``values`` (n,) under a Hann window that long."""
    half = max(1, round(seconds / STEP_S / 2))
    window = np.hanning(2 * half + 1)
    window = window[1:-1] if half > 1 else np.ones(1)
    sums = np.convolve(values * weight, window, "full"), np.convolve(weight, window, "full")
    keep = slice(len(window) // 2, len(window) // 2 + len(values))
    return np.asarray(sums[0][keep] / sums[1][keep])
