"""From key poses to joints: channels interpolated over time, legs solved so that planted feet stay planted.

World: metres, x to the picture's right, y up from the floor, z toward the audience. Angles about the vertical
("yaw") are 0 facing the audience and grow to the dancer's left. Body coordinates are (to her left, up, to her front).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from balletal.synthetic.body import JOINT, JOINTS, Body

Floats = NDArray[np.float64]

RISE = np.deg2rad(68)
"""How far a foot tilts about its toes from flat to full pointe."""

GRIP = 0.1
"""How long before and after a foot stands the hips already heed its place, seconds."""

TURNOUT = 0.9
"""How far a standing foot points outward from where the hips face, radians."""


@dataclass(frozen=True)
class Channel:
    """A vector over time: a cubic Hermite spline that never overshoots, unless a slope is given for a key.

    Attributes:
        times: (K,) seconds, increasing.
        values: (K, C).
        slopes: (K, C) per second.
    """

    times: Floats
    values: Floats
    slopes: Floats

    @classmethod
    def through(cls, times: ArrayLike, values: ArrayLike, slopes: ArrayLike) -> "Channel":
        """The channel through keys.

        ``slopes`` that are nan are the harmonic mean of the two secants beside the key, and 0 at an end or where the
        direction changes: values then stay between those of their keys (Fritsch and Butland 1984).
        """
        t, v = np.asarray(times, float), np.asarray(values, float)
        given = np.asarray(slopes, float)
        auto = np.zeros_like(v)
        if len(t) > 2:
            secant = np.diff(v, axis=0) / np.diff(t)[:, None]
            before, after = secant[:-1], secant[1:]
            same = before * after > 0
            total = np.where(same, before + after, 1.0)
            auto[1:-1] = np.where(same, 2 * before * after / total, 0.0)
        return cls(t, v, np.where(np.isnan(given), auto, given))

    def at(self, times: Floats) -> Floats:
        """(T, C) at ``times`` (T,); before the first and after the last key its value is held."""
        if len(self.times) == 1:
            return np.repeat(self.values, len(times), axis=0)
        i = np.clip(np.searchsorted(self.times, times, side="right") - 1, 0, len(self.times) - 2)
        span = self.times[i + 1] - self.times[i]
        u = np.clip((times - self.times[i]) / span, 0.0, 1.0)[:, None]
        a, b = self.values[i], self.values[i + 1]
        m, n = self.slopes[i] * span[:, None], self.slopes[i + 1] * span[:, None]
        return a * (2 * u**3 - 3 * u**2 + 1) + m * (u**3 - 2 * u**2 + u) + b * (3 * u**2 - 2 * u**3) + n * (u**3 - u**2)


@dataclass(frozen=True)
class Foot:
    """Where a foot is at a key: on the floor, or free.

    Attributes:
        planted: on the floor at ``toe``, or free in the direction ``leg``.
        toe: (x, z) metres in the world, if planted.
        rise: 0 flat to 1 full pointe, if planted.
        leg: unit vector from hip to ankle in body coordinates, if free.
        reach: distance from hip to ankle as a share of the straight leg, if free.
        knee: which way the knee points, radians from the front outward.
        lift: how high the toe passes over the floor on its way to this place from another, metres.
    """

    planted: bool
    toe: tuple[float, float] = (0.0, 0.0)
    rise: float = 0.0
    leg: tuple[float, float, float] = (0.0, -1.0, 0.0)
    reach: float = 1.0
    knee: float = 0.9
    lift: float = 0.05


class FootTrack:
    """A foot's keys over time, as arrays. Between two keys the leg swings about the hip, not through the body."""

    def __init__(self, times: Sequence[float], feet: Sequence[Foot]) -> None:
        if len(feet) == 1:
            times, feet = [times[0], times[0] + 1.0], [feet[0], feet[0]]
        self.times = np.asarray(times, float)
        self.planted = np.array([foot.planted for foot in feet])
        self.toe = np.array([[foot.toe[0], 0.0, foot.toe[1]] for foot in feet], float)
        self.steps = np.linalg.norm(np.diff(self.toe, axis=0), axis=1) > 1e-6
        self.leg = np.array([foot.leg for foot in feet], float)
        self.scalars = np.array([[foot.rise, foot.reach, foot.knee, foot.lift] for foot in feet], float)

    def between(self, times: Floats) -> tuple[NDArray[np.int64], Floats]:
        """The key before each time (T,), and how far on to the next one it is, eased."""
        i = np.clip(np.searchsorted(self.times, times, side="right") - 1, 0, len(self.times) - 2)
        u = np.clip((times - self.times[i]) / (self.times[i + 1] - self.times[i]), 0.0, 1.0)
        return i, u * u * (3 - 2 * u)

    def stands(self, times: Floats) -> list[tuple[Floats, Floats]]:
        """Where the foot stands: toes (T, 3) and weights (T,), of the place it is at or leaves, and of the next one.

        A weight is 1 while the foot stands there and eases to 0 within ``GRIP`` seconds of a step from or to there.
        """
        i, _ = self.between(times)
        down = self.planted[:-1] & self.planted[1:]
        still = down & ~self.steps
        before, after = down & np.roll(still, 1), down & np.roll(still, -1)
        before[0], after[-1] = False, False
        ends = []
        for key, stood, away in ((i, before, times - self.times[i]), (i + 1, after, self.times[i + 1] - times)):
            u = np.clip(1.0 - away / GRIP, 0.0, 1.0)
            ends.append((self.toe[key], np.where(still[i], 1.0, np.where(stood[i], u * u * (3 - 2 * u), 0.0))))
        return ends


@dataclass(frozen=True)
class Motion:
    """A dancer over time.

    Attributes:
        place: (x, z) of the hips' middle, metres.
        height: the hips' middle above its standing height, metres.
        yaw: where the hips face, radians, unwrapped.
        trunk: lean to the front, lean to the left, twist to the left; radians.
        gaze: where the head looks: yaw (world, unwrapped) and up; radians.
        arms: (K, 12) direction of left upper arm, left forearm, right upper arm, right forearm in trunk coordinates.
        feet: left, right.
    """

    body: Body
    seconds: float
    place: Channel
    height: Channel
    yaw: Channel
    trunk: Channel
    gaze: Channel
    arms: Channel
    feet: tuple[FootTrack, FootTrack]

    def joints(self, times: ArrayLike) -> Floats:
        """Joints at ``times`` (T,) seconds: (T, 22, 3) metres, in the order of :data:`balletal.synthetic.body.JOINTS`.

        Times outside [0, seconds] hold the first or last pose.
        """
        t = np.clip(np.asarray(times, float), 0.0, self.seconds)
        body, out = self.body, np.empty((len(t), len(JOINTS), 3))
        yaw = self.yaw.at(t)[:, 0]
        left, front = _sideways(yaw), _forward(yaw)
        place = self.place.at(t)
        pelvis = np.stack([place[:, 0], body.standing + self.height.at(t)[:, 0], place[:, 1]], axis=1)
        pelvis[:, 1] -= self._sunk(t, pelvis, yaw)
        for track, side, name in ((self.feet[0], 1.0, "left"), (self.feet[1], -1.0, "right")):
            hip = pelvis + side * body.hips * left
            knee, ankle, toe = _leg(body, track, t, hip, yaw, side)
            for joint, at in (("hip", hip), ("knee", knee), ("ankle", ankle), ("toe", toe)):
                out[:, JOINT[f"{name}_{joint}"]] = at
        self._upper(out, t, pelvis, left, front)
        return out

    def _sunk(self, t: Floats, pelvis: Floats, yaw: Floats) -> Floats:
        """(T,) how far the hips must come down for standing legs to reach their places on full pointe, at most 7 cm.

        Smooth: it begins a little early, and before a foot arrives, and it ends after the foot leaves.
        """
        sunk = np.zeros(len(t))
        for track, side in zip(self.feet, (1.0, -1.0), strict=True):
            hip = pelvis + side * self.body.hips * _sideways(yaw)
            for toe, weight in track.stands(t):
                ankle = _planted_ankle(self.body, toe, np.full(len(t), RISE), yaw, side)
                flat = np.hypot(hip[:, 0] - ankle[:, 0], hip[:, 2] - ankle[:, 2])
                room = ankle[:, 1] + np.sqrt(np.maximum((self.body.leg * 0.999) ** 2 - flat**2, 0.0))
                over = hip[:, 1] - room
                sunk = np.maximum(sunk, weight * 0.07 * np.tanh((over + np.hypot(over, 0.01)) / 0.14))
        return sunk

    def _upper(self, out: Floats, t: Floats, pelvis: Floats, left: Floats, front: Floats) -> None:
        """Trunk, arms and head."""
        body = self.body
        lean, roll, twist = self.trunk.at(t).T
        up = np.array([0.0, 1.0, 0.0])
        spine = _unit(
            left * np.sin(roll)[:, None] + up * (np.cos(roll) * np.cos(lean))[:, None] + front * np.sin(lean)[:, None]
        )
        across = _unit(left - spine * np.sum(left * spine, axis=1, keepdims=True))
        ahead = np.cross(across, spine)
        across = across * np.cos(twist)[:, None] - ahead * np.sin(twist)[:, None]
        ahead = np.cross(across, spine)
        neck = pelvis + spine * body.trunk
        arms = self.arms.at(t).reshape(-1, 4, 3)
        # From one direction to its opposite an arm passes in front.
        arms[:, :, 2] += np.maximum(1.0 - np.linalg.norm(arms, axis=2), 0.0)
        for k, (side, name) in enumerate(((1.0, "left"), (-1.0, "right"))):
            upper, fore = (_unit(_compose(arms[:, 2 * k + j], across, spine, ahead)) for j in (0, 1))
            # A raised arm takes its shoulder with it.
            shoulder = neck + across * (side * body.shoulders) + spine * (0.025 * np.maximum(upper[:, 1:2], 0.0))
            elbow = shoulder + upper * body.arm
            wrist = elbow + fore * body.forearm
            for joint, at in (("shoulder", shoulder), ("elbow", elbow), ("wrist", wrist)):
                out[:, JOINT[f"{name}_{joint}"]] = at
            out[:, JOINT[f"{name}_hand"]] = wrist + _unit(fore + 0.25 * (fore - upper)) * body.hand
        look, tilt = self.gaze.at(t).T
        crown = _unit(0.6 * spine + 0.4 * up)
        face = _forward(look) * np.cos(tilt)[:, None] + up * np.sin(tilt)[:, None]
        face = _unit(face - crown * np.sum(face * crown, axis=1, keepdims=True))
        ear = np.cross(crown, face)
        head, size = neck + crown * body.neck, body.head
        out[:, JOINT["head_top"]] = head + crown * size
        out[:, JOINT["nose"]] = head + face * (0.95 * size) - crown * (0.1 * size)
        for side, name in ((1.0, "left"), (-1.0, "right")):
            out[:, JOINT[f"{name}_ear"]] = head + ear * (side * 0.62 * size)
            out[:, JOINT[f"{name}_eye"]] = head + ear * (side * 0.27 * size) + face * (0.8 * size) + crown * 0.2 * size


def _leg(
    body: Body, track: FootTrack, t: Floats, hip: Floats, yaw: Floats, side: float
) -> tuple[Floats, Floats, Floats]:
    """Knee, ankle and toe, (T, 3) each, of the leg that hangs from ``hip``."""
    i, w = track.between(t)
    j = i + 1
    rise, _, knee_out, _ = (track.scalars[i] * (1 - w[:, None]) + track.scalars[j] * w[:, None]).T
    floor = track.planted[i] & track.planted[j]
    # Both on the floor: the toe stays, or passes over the floor to its next place.
    toe = track.toe[i] * (1 - w[:, None]) + track.toe[j] * w[:, None]
    moving = track.steps[i]
    toe[:, 1] = np.where(moving, np.sin(np.pi * w) * track.scalars[j, 3], 0.0)
    tilt = _needed_tilt(body, hip, toe, rise * RISE, yaw, side)
    ankle = _planted_ankle(body, toe, tilt, yaw, side)
    # Otherwise the leg swings about the hip from one direction to the other.
    ends, tips = [], []
    pole = _compose(np.stack([side * np.sin(knee_out), np.zeros(len(t)), np.cos(knee_out)], axis=1), *_axes(yaw))
    for k in (i, j):
        at = _planted_ankle(body, track.toe[k], track.scalars[k, 0] * RISE, yaw, side)
        free = _compose(track.leg[k], *_axes(yaw)) * (track.scalars[k, 1] * body.leg)[:, None]
        ends.append(np.where(track.planted[k, None], at - hip, free))
        tips.append(np.where(track.planted[k, None], track.toe[k] - at, np.nan))
    # A foot comes down on its place from above.
    ends[1][:, 1] += np.where(track.planted[j] & ~track.planted[i], 0.3 * (1 - w), 0.0)
    swing = _swing(ends[0], ends[1], w, body.leg * 0.999)
    ankle = np.where(floor[:, None], ankle, hip + swing)
    # The heel stays over the floor, too.
    ankle[:, 1] = np.maximum(ankle[:, 1], np.minimum(body.ankle, hip[:, 1]))
    # A foot that the hips have left behind is dragged along: limbs never stretch.
    line = ankle - hip
    length = np.linalg.norm(line, axis=1, keepdims=True)
    ankle = hip + line * np.minimum(1.0, body.leg * 0.999 / np.maximum(length, 1e-9))
    knee = _knee(hip, ankle, pole, body)
    shin = _unit(ankle - knee)
    # A free foot is stretched.
    tips = [np.where(np.isnan(tip), shin * body.foot, tip) for tip in tips]
    foot = _unit(tips[0] * (1 - w[:, None]) + tips[1] * w[:, None]) * body.foot
    foot = np.where(floor[:, None], _unit(toe - ankle) * body.foot, foot)
    # A foot that swings low skims the floor, it does not sink in: the knee bends further.
    ankle = ankle + np.array([0.0, 1.0, 0.0]) * np.maximum(-(ankle + foot)[:, 1:2], 0.0)
    return _knee(hip, ankle, pole, body), ankle, ankle + foot


def _planted_ankle(body: Body, toe: Floats, tilt: Floats, yaw: Floats, side: float) -> Floats:
    """The ankle over a toe on the floor: the foot, turned out, tilted about its tip. It turns as the hips do."""
    behind, above = ankle_from_toe(body, tilt)
    ankle = toe - _forward(yaw + side * TURNOUT) * behind[:, None]
    ankle[:, 1] = toe[:, 1] + above
    return ankle


def ankle_from_toe(body: Body, tilt: Floats) -> tuple[Floats, Floats]:
    """How far behind and above the toe the ankle is, metres, on a foot tilted by ``tilt`` radians from flat."""
    flat = np.sqrt(body.foot**2 - body.ankle**2)
    return (
        flat * np.cos(tilt) - body.ankle * np.sin(tilt),
        flat * np.sin(tilt) + body.ankle * np.cos(tilt),
    )


def _needed_tilt(body: Body, hip: Floats, toe: Floats, tilt: Floats, yaw: Floats, side: float) -> Floats:
    """The foot's tilt: as given, or more where the hips are so high or far that the heel must leave the floor."""

    def far(at: Floats) -> NDArray[np.bool_]:
        return np.linalg.norm(_planted_ankle(body, toe, at, yaw, side) - hip, axis=1) > body.leg * 0.999

    beyond = far(tilt)
    if not beyond.any():
        return tilt
    # The heel turns about the toe; it is nearest to the hip where it points there.
    line = hip - toe
    ahead = np.sum(line * _forward(yaw + side * TURNOUT), axis=1)
    nearest = np.arctan2(line[:, 1], -ahead) - np.arcsin(body.ankle / body.foot)
    low, high = tilt.copy(), np.clip(nearest, tilt, RISE)
    for _ in range(12):
        middle = (low + high) / 2
        still = far(middle)
        low, high = np.where(still, middle, low), np.where(still, high, middle)
    return np.where(beyond, high, tilt)


def _swing(a: Floats, b: Floats, w: Floats, longest: float) -> Floats:
    """Between two vectors (T, 3) along the arc, lengths between theirs and at most ``longest``."""
    la, lb = np.linalg.norm(a, axis=1, keepdims=True), np.linalg.norm(b, axis=1, keepdims=True)
    ua, ub = a / la, b / lb
    angle = np.arccos(np.clip(np.sum(ua * ub, axis=1, keepdims=True), -1.0, 1.0))
    share = w[:, None]
    sine = np.sin(angle)
    small = sine < 1e-6
    safe = np.where(small, 1.0, sine)
    direction = np.where(
        small,
        _unit(ua * (1 - share) + ub * share + 1e-12),
        (np.sin((1 - share) * angle) * ua + np.sin(share * angle) * ub) / safe,
    )
    return direction * np.minimum(la * (1 - share) + lb * share, longest)


def _knee(hip: Floats, ankle: Floats, pole: Floats, body: Body) -> Floats:
    """The knee of a leg from hip to ankle. ``pole`` is where it points while the leg hangs; it turns with the leg."""
    line = ankle - hip
    distance = np.clip(np.linalg.norm(line, axis=1), abs(body.thigh - body.shank) + 1e-6, body.leg * 0.9999)
    along = _unit(line)
    hanging = along - np.array([0.0, 1.0, 0.0])
    pole = pole - hanging * (np.sum(pole * along, axis=1) / np.maximum(1.0 - along[:, 1], 1e-3))[:, None]
    out = _unit(pole - along * np.sum(pole * along, axis=1, keepdims=True))
    upper = (body.thigh**2 - body.shank**2 + distance**2) / (2 * distance)
    bend = np.sqrt(np.maximum(body.thigh**2 - upper**2, 0.0))
    return hip + along * upper[:, None] + out * bend[:, None]


def _axes(yaw: Floats) -> tuple[Floats, Floats, Floats]:
    return _sideways(yaw), np.broadcast_to([0.0, 1.0, 0.0], (len(yaw), 3)), _forward(yaw)


def _compose(vector: Floats, across: Floats, up: Floats, ahead: Floats) -> Floats:
    return vector[:, 0:1] * across + vector[:, 1:2] * up + vector[:, 2:3] * ahead


def _forward(yaw: Floats) -> Floats:
    return np.stack([np.sin(yaw), np.zeros_like(yaw), np.cos(yaw)], axis=1)


def _sideways(yaw: Floats) -> Floats:
    return np.stack([np.cos(yaw), np.zeros_like(yaw), -np.sin(yaw)], axis=1)


def _unit(vector: Floats) -> Floats:
    return vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-9)
