"""A camera in the hall: it stands still, turns on its tripod after the dancer, zooms, or shakes in a hand.

It turns and zooms but never changes its place, so that everything behind the dancer can be painted once and warped
exactly (see ``View.homography``).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balletal.synthetic.presets import CameraKind, Preset

Floats = NDArray[np.float64]

_MARGIN = 0.94  # share of the picture that the dancer may fill
_RATE = 25.0  # of the path's grid, Hz


@dataclass(frozen=True)
class View:
    """The camera at one moment.

    Attributes:
        matrix: (3, 3) from metres relative to ``place`` to homogeneous pixels. The last row is the unit vector along
            the optical axis, so that the third coordinate is the depth in metres.
        place: (3,) metres.
    """

    matrix: Floats
    place: Floats

    @property
    def focal(self) -> float:
        """Pixels that a metre takes at a depth of one."""
        return math.sqrt(abs(float(np.linalg.det(self.matrix))))

    def project(self, points: Floats) -> tuple[Floats, Floats]:
        """Pixels (..., 2), pixel centres at .5, and depths (...) in metres of points (..., 3) in metres."""
        image = (points - self.place) @ self.matrix.T
        depth = np.maximum(image[..., 2], 1e-3)
        return image[..., :2] / depth[..., None], depth

    def homography(self, to: "View") -> Floats:
        """(3, 3) from this view's pixels to those of a view from the same place."""
        return np.asarray(to.matrix @ np.linalg.inv(self.matrix))

    def rays(self, x: Floats, y: Floats) -> Floats:
        """Directions (..., 3), depth 1, through pixels."""
        return np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(self.matrix).T


@dataclass(frozen=True)
class Camera:
    """A path of views.

    Attributes:
        kind: how it moves.
        size: width and height of the picture, pixels.
        place: (3,) metres.
        times: (N,) seconds of the path's grid.
        path: (N, 3) yaw (positive looks right) and pitch (positive looks up), radians, and log of the focal length in
            pixels; held before and after.
        shake: (K, 5) waves: frequency (Hz), phase, and amplitudes of yaw, pitch and roll (radians).
    """

    kind: CameraKind
    size: tuple[int, int]
    place: Floats
    times: Floats
    path: Floats
    shake: Floats

    @property
    def moves(self) -> bool:
        return len(self.times) > 1 or len(self.shake) > 0

    def view(self, time: float) -> View:
        yaw, pitch, zoom = (float(np.interp(time, self.times, self.path[:, i])) for i in range(3))
        waves = np.sin(2 * np.pi * self.shake[:, 0] * time + self.shake[:, 1]) @ self.shake[:, 2:]
        return _view(self.place, yaw + waves[0], pitch + waves[1], waves[2], math.exp(zoom), self.size)


def random_camera(
    random: np.random.Generator, preset: Preset, size: tuple[int, int], seconds: float, track: Floats, stature: float
) -> Camera:
    """A camera that frames a dance.

    A fixed camera keeps all that is danced in the picture, and in its central square where that costs at most half of
    the drawn size; if even the whole picture asks for a dancer much smaller than the preset's, it looks at the middle.
    The others follow, at a distance that mostly keeps the limbs inside, too.

    Args:
        track: (T, J, 3) the dancer's joints at equal steps from 0 to ``seconds``, metres.
        stature: metres.
    """
    kind = random.choice(np.array(preset.cameras)).item()
    share = float(random.uniform(*preset.size))
    far = 2.2 * preset.reach[1] + float(random.uniform(6, 18 if kind == "fixed" else 13))
    if kind == "handheld":
        far = 2.2 * preset.reach[1] + float(random.uniform(2, 6))
    height = float(random.uniform(1.3, 1.7) if kind == "handheld" else random.uniform(1.2, 1.6 + 0.1 * far))
    place = np.array([float(random.uniform(-0.16, 0.16)) * far, height, far])
    depth = float(np.mean(place[2] - track[:, :, 2]))
    focal = share * size[1] * math.hypot(depth, place[0]) / stature
    if kind == "fixed":
        return _fixed(random, preset, size, place, track, focal, share)
    return _following(random, kind, preset, size, seconds, place, track, focal, stature)


def _fixed(
    random: np.random.Generator,
    preset: Preset,
    size: tuple[int, int],
    place: Floats,
    track: Floats,
    focal: float,
    share: float,
) -> Camera:
    points = track.reshape(-1, 3)
    # The floor under the dance belongs in the picture.
    points = np.concatenate([points, points * [1, 0, 1]])
    yaw, pitch = _angles(points.mean(0) - place)
    for _ in range(4):  # centres the box: a tilted camera's box is not that of its first guess
        low, high = _box(_view(place, yaw, pitch, 0.0, 1.0, (0, 0)), points)
        yaw += math.atan((low[0] + high[0]) / 2)
        pitch -= math.atan((low[1] + high[1]) / 2)
    low, high = _box(_view(place, yaw, pitch, 0.0, 1.0, (0, 0)), points)
    square = np.array([min(size), size[1]]) * _MARGIN
    fits = min(focal, *(square / (high - low)))
    room = square
    if fits < 0.5 * focal:
        room = np.array(size) * _MARGIN
        fits = min(focal, *(room / (high - low)))
    if share * fits / focal < 0.6 * preset.size[0]:
        fits = focal
    slack = np.maximum(room / fits - (high - low), 0) / 2
    # Somewhat more room above than below, as people frame.
    yaw -= math.atan(float(random.uniform(-0.8, 0.8)) * slack[0])
    pitch += math.atan(float(random.uniform(-0.2, 0.8)) * slack[1])
    path = np.array([[yaw, pitch, math.log(fits)]])
    return Camera("fixed", size, place, np.zeros(1), path, np.zeros((0, 5)))


def _following(
    random: np.random.Generator,
    kind: CameraKind,
    preset: Preset,
    size: tuple[int, int],
    seconds: float,
    place: Floats,
    track: Floats,
    focal: float,
    stature: float,
) -> Camera:
    times = np.linspace(0, seconds, max(2, round(seconds * _RATE) + 1))
    coarse = np.linspace(0, seconds, len(track))
    middle = (track.min(1) + track.max(1)) / 2
    aim = np.stack([np.interp(times, coarse, middle[:, i]) for i in range(3)], axis=1)
    # Jumps and bends are followed a little, as a person at the tripod does.
    aim[:, 1] = 0.53 * stature + 0.25 * (aim[:, 1] - 0.53 * stature)
    zoom = np.zeros(len(times))
    if kind == "zoom":
        zoom = _drift(random, times, 0.5 * math.log(preset.size[1] / preset.size[0]))
    lag, still = float(random.uniform(0.15, 0.5)), float(random.uniform(0.0, 0.25))
    where = np.stack([np.arctan2(aim[:, 0] - place[0], place[2] - aim[:, 2]), _pitches(aim - place)], axis=1)
    offset = np.array([float(random.uniform(-0.04, 0.04)), float(random.uniform(0.0, 0.05))]) * size[1] / focal
    for _ in range(4):
        angles = _follow(where, times, lag, still * size[0] / focal) + offset
        needed = _needed(place, angles, times, coarse, track, size)
        scale = min(1.0, float(np.quantile(needed / np.exp(np.interp(coarse, times, zoom)), 0.02)) / focal)
        if scale > 0.85:
            break
        lag, still, offset = lag * 0.4, still * 0.4, offset * 0.5
    path = np.column_stack([angles, np.log(focal * max(scale, 0.6)) + zoom])
    shake = np.zeros((0, 5))
    if kind == "handheld":
        frequency = np.exp(random.uniform(math.log(0.25), math.log(5), 10))
        amplitude = random.normal(size=(10, 3)) * [1, 1, 0.35] * 0.006 / np.maximum(frequency, 0.5)[:, None]
        amplitude[:, :2] *= size[1] / focal * 2
        shake = np.column_stack(
            [frequency, random.uniform(0, 2 * np.pi, 10), amplitude * float(random.uniform(0.4, 1))]
        )
    return Camera(kind, size, place, times, path, shake)


def _needed(
    place: Floats, angles: Floats, times: Floats, coarse: Floats, track: Floats, size: tuple[int, int]
) -> Floats:
    """(T,) the largest focal length, pixels, that keeps the whole dancer in the picture at each coarse time."""
    rotation = _rotations(*(np.interp(coarse, times, angles[:, i]) for i in range(2)))
    seen = np.einsum("tij,tkj->tki", rotation, track - place)
    reach = np.abs(seen[..., :2] / seen[..., 2:]).max(1)
    return np.asarray((np.array(size) / 2 * _MARGIN / reach).min(1))


def _follow(where: Floats, times: Floats, lag: float, still: float) -> Floats:
    """``where`` (N, 2) smoothed as an operator follows: late by ``lag`` seconds and idle within ``still`` radians."""
    step = float(times[1] - times[0]) if len(times) > 1 else 1.0
    rate = 1 - math.exp(-step / lag) if lag > 0 else 1.0
    aims, out = where[0].copy(), np.empty_like(where)
    first = second = where[0]
    for i, point in enumerate(where):
        # Idle only sideways: the dancer's height in the picture hardly changes anyway.
        aims[0] = min(max(aims[0], point[0] - still / 2), point[0] + still / 2)
        aims[1] = point[1]
        first = first + rate * (aims - first)
        second = second + rate * (first - second)
        out[i] = second
    return out


def _drift(random: np.random.Generator, times: Floats, most: float) -> Floats:
    """(N,) a zoom that rests and slides: log of the magnification, at most ``most`` either way."""
    seconds = float(times[-1])
    keys, levels = [0.0], [0.0]
    while keys[-1] < seconds:
        keys += [keys[-1] + float(random.uniform(1, 6))]
        levels += [levels[-1]]
        keys += [keys[-1] + float(random.uniform(1.5, 5))]
        levels += [float(random.uniform(-1, 1)) * min(most, 0.45)]
    after = np.clip(np.searchsorted(keys, times, side="right"), 1, len(keys) - 1)
    at, to = np.array(keys)[after - 1], np.array(keys)[after]
    share = np.clip((times - at) / (to - at), 0, 1)
    share = share * share * (3 - 2 * share)
    return np.asarray(np.array(levels)[after - 1] * (1 - share) + np.array(levels)[after] * share)


def _view(place: Floats, yaw: float, pitch: float, roll: float, focal: float, size: tuple[int, int]) -> View:
    rotation = _rotations(np.array([yaw]), np.array([pitch]))[0]
    c, s = math.cos(roll), math.sin(roll)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ rotation
    intrinsics = np.array([[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]])
    return View(intrinsics @ rotation, place)


def _rotations(yaw: Floats, pitch: Floats) -> Floats:
    """(T, 3, 3) from world to camera axes: x right, y down, z ahead; yaw and pitch 0 look to -z."""
    (c, s), (u, v) = (np.cos(yaw), np.sin(yaw)), (np.cos(pitch), np.sin(pitch))
    zero = np.zeros_like(c)
    ahead = np.stack([s * u, v, -c * u], axis=-1)
    right = np.stack([c, zero, s], axis=-1)
    down = np.stack([s * v, -u, -c * v], axis=-1)
    return np.stack([right, down, ahead], axis=-2)


def _angles(direction: Floats) -> tuple[float, float]:
    return math.atan2(direction[0], -direction[2]), float(_pitches(direction[None])[0])


def _pitches(directions: Floats) -> Floats:
    return np.asarray(np.arctan2(directions[:, 1], np.hypot(directions[:, 0], directions[:, 2])))


def _box(view: View, points: Floats) -> tuple[Floats, Floats]:
    pixels, _ = view.project(points)
    return pixels.min(0), pixels.max(0)
