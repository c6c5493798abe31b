"""The choreographer's notebook: writes key poses in a step's own frame, mirrored or not, and keeps what was last.

A step is written once, in its right-hand version, in step coordinates: x to the dancer's left, z to her front, from
where she stands when it begins. ``side`` -1 mirrors it: x, yaw, lean and twist change sign and left and right swap.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from balletal.synthetic.body import Body
from balletal.synthetic.motion import RISE, TURNOUT, Channel, Foot, FootTrack, Motion, ankle_from_toe

GRAVITY = 9.81
SCALE = 1.65
"""The stature (m) for which lengths in steps are written; others are scaled."""

_Arm = tuple[tuple[float, float, float], tuple[float, float, float]]

# Directions of a left upper arm and forearm in trunk coordinates (left, up, front); a right arm mirrors them.
ARMS: dict[str, _Arm] = {
    "low": ((0.38, -0.9, 0.22), (-0.2, -0.88, 0.42)),
    "first": ((0.62, -0.55, 0.55), (-0.62, -0.1, 0.78)),
    "second": ((0.96, -0.14, 0.26), (0.88, -0.16, 0.45)),
    "demi": ((0.75, -0.6, 0.3), (0.55, -0.75, 0.38)),
    "high": ((0.5, 0.84, 0.16), (-0.4, 0.9, 0.16)),
    "open_high": ((0.72, 0.68, 0.1), (0.6, 0.79, 0.12)),
    "ahead": ((0.12, 0.12, 0.98), (0.02, 0.16, 0.98)),
    "side": ((0.98, -0.02, 0.05), (0.99, -0.04, 0.08)),
    "closed": ((0.5, -0.72, 0.45), (-0.72, 0.0, 0.68)),
}

Feet = Literal["left", "right"]


def on(x: float, z: float, *, rise: float = 0.0, lift: float = 0.05, knee: float = 0.9) -> Foot:
    """A foot on the floor with its toe at (x, z) of the step's frame, metres."""
    return Foot(True, toe=(x, z), rise=rise, lift=lift, knee=knee)


def off(x: float, y: float, z: float, *, reach: float = 1.0, knee: float = 0.9) -> Foot:
    """A free foot: direction from the hip in body coordinates (to her left, up, front) and reach of the leg."""
    length = float(np.sqrt(x * x + y * y + z * z))
    return Foot(False, leg=(x / length, y / length, z / length), reach=reach, knee=knee)


@dataclass(frozen=True)
class Segment:
    """A step that was danced: fine label (or the tag "Backwards"), start and end in seconds."""

    label: str
    start: float
    end: float


class Dance:
    """Keys of one dancer, written from the beginning to the end.

    Attributes:
        time: now, seconds; keys are given relative to it.
        place: (x, z) in the world from which the current step is written, metres.
        front: where the current step faces, radians, unwrapped.
        side: 1 for the right-hand version as written, -1 for its mirror image.
    """

    def __init__(self, body: Body, place: tuple[float, float], front: float) -> None:
        self.body = body
        self.scale = body.stature / SCALE
        self.time = 0.0
        self.place = np.array(place, float)
        self.front = front
        self.side = 1
        self.segments: list[Segment] = []
        self._keys: dict[str, list[tuple[float, np.ndarray, np.ndarray]]] = {}
        self._feet: dict[Feet, list[tuple[float, Foot]]] = {"left": [], "right": []}
        self.key(
            0.0, place=(0, 0), height=0.0, yaw=0.0, trunk=(0, 0, 0), gaze=(0, 0), arms=("low", "low"),
            left=on(0.13, 0.09), right=on(-0.13, 0.15),
        )  # fmt: skip

    def key(
        self,
        after: float,
        *,
        place: tuple[float, float] | None = None,
        height: float | None = None,
        yaw: float | None = None,
        trunk: tuple[float, float, float] | None = None,
        gaze: tuple[float, float] | None = None,
        arms: tuple[str, str] | None = None,
        left: Foot | None = None,
        right: Foot | None = None,
        speed: tuple[float, float] | None = None,
        climb: float | None = None,
        turning: float | None = None,
    ) -> None:
        """Write what is given, ``after`` seconds from now, in the step's frame.

        Args:
            place: of the hips. height: of the hips over standing. yaw: of the hips. trunk: lean forward, lean to her
                left, twist to her left. gaze: yaw and up. arms: names of :data:`ARMS` for left and right.
            speed, climb, turning: slopes of place, height and yaw at this key, per second; smooth if not given.
        """
        t, s = self.time + after, self.side
        if place is not None:
            slope = None if speed is None else self._turned(speed)
            self._write("place", t, self.place + self._turned(place), slope)
        if height is not None:
            self._write("height", t, [height * self.scale], None if climb is None else [climb])
        if yaw is not None:
            self._write("yaw", t, [self.front + s * yaw], None if turning is None else [s * turning])
        if trunk is not None:
            self._write("trunk", t, [trunk[0], s * trunk[1], s * trunk[2]])
        if gaze is not None:
            self._write("gaze", t, [self.front + s * gaze[0], gaze[1]])
        if arms is not None:
            names = arms if s > 0 else arms[::-1]
            self._write("arms", t, _arms(*names))
        feet: list[tuple[Feet, Foot | None]] = [("left", left), ("right", right)]
        for name, foot in feet:
            if foot is not None:
                self._write_foot(self._which(name), t, foot)

    def feet(self, after: float, left: Foot | None = None, right: Foot | None = None) -> None:
        """Write feet alone, as :meth:`key` does."""
        self.key(after, left=left, right=right)

    def hold(self, after: float = 0.0, *channels: str) -> None:
        """Keep what was last written until ``after`` seconds from now: everything, or only ``channels``."""
        for name, keys in self._keys.items():
            if (not channels or name in channels) and keys[-1][0] < self.time + after:
                self._write(name, self.time + after, keys[-1][1])
        if not channels:
            self.stay(after, "left", "right")

    def stay(self, after: float, *feet: Feet) -> None:
        """Keep feet as they were last written until ``after`` seconds from now."""
        for foot in feet:
            placed = self._feet[self._which(foot)]
            if placed[-1][0] < self.time + after:
                placed.append((self.time + after, placed[-1][1]))

    def under(
        self, foot: Feet, place: tuple[float, float], yaw: float, *, rise: float = 0.0, lift: float = 0.05
    ) -> Foot:
        """A foot on the floor that carries: its ankle under its hip when the hips are at ``place`` facing ``yaw``."""
        side = 1.0 if foot == "left" else -1.0
        body, outward = self.body, yaw + side * TURNOUT
        ahead = float(ankle_from_toe(body, np.asarray(rise * RISE))[0]) / self.scale
        hip = side * body.hips / self.scale * 0.6  # a dancer who stands on one leg brings it under her
        return on(
            place[0] + hip * float(np.cos(yaw)) + ahead * float(np.sin(outward)),
            place[1] - hip * float(np.sin(yaw)) + ahead * float(np.cos(outward)),
            rise=rise,
            lift=lift,
        )

    def flight(self, start: float, end: float, *, frm: tuple[float, float], to: tuple[float, float],
               leave: float = 0.1, land: float = 0.08) -> None:  # fmt: skip
        """A ballistic flight of the hips between two times: a parabola, at constant speed across the floor.

        Args:
            frm, to: places of the hips at take-off and at landing. leave, land: heights there over standing: toes leave
                and touch the floor last and first, on a stretched leg.
        """
        seconds = end - start
        climb = (land - leave) * self.scale / seconds + GRAVITY * seconds / 2
        speed = ((to[0] - frm[0]) / seconds, (to[1] - frm[1]) / seconds)
        self.key(start, place=frm, height=leave, speed=speed, climb=climb)
        self.key(end, place=to, height=land, speed=speed, climb=climb - GRAVITY * seconds)

    def turn(
        self, start: float, end: float, rotation: float, *, spots: int, first: bool = False, last: bool = False
    ) -> None:
        """Turn by ``rotation`` radians; the head stays behind and whips around, ``spots`` times.

        The rate is even, but a ``first`` turn of a series gathers speed and the ``last`` one slows down.
        """
        rate = rotation / (end - start)
        if first:
            self.key(start - 0.1, yaw=0.0)
        self.key(start, yaw=0.0, turning=rate * (0.3 if first else 1.0))
        self.key(end, yaw=rotation, turning=rate * (0.3 if last else 1.0))
        one, whole = (end - start) / spots, rotation / spots
        for n in range(spots):
            at = start + n * one
            self.key(at, gaze=(n * whole, 0.05))
            self.key(at + 0.30 * one, gaze=(n * whole + 0.04 * whole, 0.05))
            self.key(at + 0.72 * one, gaze=((n + 0.96) * whole, 0.05))
            self.key(at + one, gaze=((n + 1) * whole, 0.05))

    def advance(self, seconds: float, place: tuple[float, float] = (0, 0), turned: float = 0.0) -> None:
        """Let time pass: what follows is written from ``place`` of the step's frame, turned by ``turned``."""
        self.place = self.place + self._turned(place)
        self.front += self.side * turned
        self.time += seconds

    def mark(self, label: str, start: float, end: float) -> None:
        """Note a segment, times relative to now, to a millisecond."""
        self.segments.append(Segment(label, round(self.time + start, 3), round(self.time + end, 3)))

    def foot(self, name: Feet) -> Foot:
        """The last key of a foot (toe in the world)."""
        return self._feet[self._which(name)][-1][1]

    def local(self, point: Sequence[float]) -> tuple[float, float]:
        """A place (x, z) of the world in the step's frame."""
        dx, dz = (np.asarray(point, float) - self.place) / self.scale
        cosine, sine = np.cos(self.front), np.sin(self.front)
        return float(self.side * (dx * cosine - dz * sine)), float(dx * sine + dz * cosine)

    def motion(self, seconds: float) -> Motion:
        """What was written, as a motion of ``seconds``."""
        channels = {name: _channel(keys) for name, keys in self._keys.items()}
        feet = [_foot_track(self._feet[name]) for name in ("left", "right")]
        return Motion(self.body, seconds, feet=(feet[0], feet[1]), **channels)

    def _turned(self, vector: tuple[float, float]) -> np.ndarray:
        x, z = self.side * vector[0] * self.scale, vector[1] * self.scale
        cosine, sine = np.cos(self.front), np.sin(self.front)
        return np.array([x * cosine + z * sine, -x * sine + z * cosine])

    def _which(self, name: Feet) -> Feet:
        if self.side > 0:
            return name
        return "right" if name == "left" else "left"

    def _write(self, channel: str, t: float, value: Any, slope: Any = None) -> None:
        value = np.asarray(value, float)
        slope = np.full_like(value, np.nan) if slope is None else np.asarray(slope, float)
        keys = self._keys.setdefault(channel, [])
        # What is written later is meant: it replaces what an earlier phrase wrote for this moment and after.
        while keys and keys[-1][0] > t - 1e-6:
            keys.pop()
        keys.append((t, value, slope))

    def _write_foot(self, name: Feet, t: float, foot: Foot) -> None:
        if foot.planted:
            x, z = self.place + self._turned(foot.toe)
            foot = replace(foot, toe=(float(x), float(z)))
        else:
            foot = replace(foot, leg=(self.side * foot.leg[0], foot.leg[1], foot.leg[2]))
        keys = self._feet[name]
        while keys and keys[-1][0] > t - 1e-6:
            keys.pop()
        keys.append((t, foot))


def _arms(left: str, right: str) -> np.ndarray:
    flip = np.array([-1.0, 1.0, 1.0])
    parts = [*map(np.array, ARMS[left]), *(np.array(part) * flip for part in ARMS[right])]
    return np.concatenate([part / np.linalg.norm(part) for part in parts])


def _channel(keys: list[tuple[float, np.ndarray, np.ndarray]]) -> Channel:
    times, values, slopes = zip(*keys, strict=True)
    return Channel.through(times, values, slopes)


def _foot_track(keys: list[tuple[float, Foot]]) -> FootTrack:
    times, feet = zip(*keys, strict=True)
    return FootTrack(times, feet)
