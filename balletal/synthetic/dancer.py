"""A stick dancer with filled limbs: poses, what five classes do with them, and the picture of one moment."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 320, 240

# A pose is (8, 3): the directions of left thigh, left shin, right thigh, right shin, left upper arm, left forearm,
# right upper arm, right forearm; x to the dancer's left, y up, z forward. Lengths are in body heights.
_LENGTHS = np.array([0.25, 0.26, 0.25, 0.26, 0.16, 0.17, 0.16, 0.17])[:, None]
_HIP, _SHOULDER, _TORSO, _HEAD = 0.055, 0.095, 0.28, 0.062
Pose = NDArray[np.float64]
Vector = NDArray[np.float64]


def _arms(upper: tuple[float, float, float], fore: tuple[float, float, float]) -> Pose:
    flip = np.array([-1, 1, 1])
    return np.array([upper, fore, upper * flip, fore * flip], dtype=float)


def _pose(left: list[tuple[float, float, float]], right: list[tuple[float, float, float]], arms: Pose) -> Pose:
    pose = np.vstack([left, right, arms])
    return pose / np.linalg.norm(pose, axis=1, keepdims=True)


_LOW = _arms((0.35, -0.9, 0.2), (-0.25, -0.9, 0.4))
_FRONT = _arms((0.6, -0.35, 0.75), (-0.6, 0.1, 0.8))
_OPEN = _arms((1, 0.05, 0.15), (1, -0.05, 0.35))
_HIGH = _arms((0.45, 0.9, 0.1), (-0.25, 1, 0.05))
_DOWN = [(0.06, -1.0, 0.0), (0.0, -1.0, 0.0)]
_DOWN_RIGHT = [(-0.06, -1.0, 0.0), (0.0, -1.0, 0.0)]

STAND = _pose(_DOWN, _DOWN_RIGHT, _LOW)
PLIE = _pose([(0.62, -0.7, 0.35), (-0.5, -0.85, -0.2)], [(-0.62, -0.7, 0.35), (0.5, -0.85, -0.2)], _FRONT)
PASSE = _pose(_DOWN, [(-0.95, -0.2, 0.3), (0.85, -0.55, -0.1)], _FRONT)
SPLIT = _pose([(0, 0.05, 1), (0, -0.05, 1)], [(0, 0.0, -1), (0, 0.1, -1)], _OPEN)
SECOND = _pose([(0.62, -0.8, 0), (0.55, -0.85, 0)], [(-0.62, -0.8, 0), (-0.55, -0.85, 0)], _OPEN)
LEG_SIDE = _pose(_DOWN, [(-0.9, 0.42, 0.1), (-0.9, 0.5, 0.1)], _OPEN)
STRAIGHT = _pose([(0.0, -1.0, 0.0), (0.0, -1.0, 0.0)], [(0.0, -1.0, 0.0), (0.0, -1.0, 0.0)], _HIGH)


@dataclass(frozen=True)
class Step:
    """How a class moves. Every step starts and ends standing, facing the audience.

    Attributes:
        poses: the poses to pass and when, as a share of the step.
        seconds: shortest and longest.
        jump: height of the flight, body heights.
        turns: full turns.
        travel: way across the stage, body heights; a travelling dancer faces where she goes.
    """

    poses: tuple[tuple[float, Pose], ...]
    seconds: tuple[float, float]
    jump: float = 0.0
    turns: int = 0
    travel: float = 0.0


STEPS = {
    "Pirouette": Step(((0.15, PLIE), (0.3, PASSE), (0.85, PASSE)), (0.8, 1.2), turns=2),
    "GrandJete": Step(((0.18, PLIE), (0.42, SPLIT), (0.62, SPLIT), (0.88, PLIE)), (0.6, 0.9), jump=0.28, travel=0.8),
    "EchappeSecond": Step(((0.18, PLIE), (0.45, SECOND), (0.7, SECOND)), (0.6, 0.9), jump=0.14),
    "ExtensionSecond": Step(((0.2, PASSE), (0.45, LEG_SIDE), (0.75, LEG_SIDE)), (0.9, 1.4)),
    "TourEnLair": Step(((0.18, PLIE), (0.35, STRAIGHT), (0.7, STRAIGHT), (0.88, PLIE)), (0.7, 0.9), jump=0.34, turns=1),
}


@dataclass(frozen=True)
class Look:
    """Stage, costume and size of a clip.

    Attributes:
        stage: (480, 640, 3) uint8, the empty picture at twice the size.
        scale: pixels of ``stage`` a body height.
        cloth, skin, shadow: RGB.
    """

    stage: NDArray[np.uint8]
    scale: float
    cloth: Vector
    skin: Vector
    shadow: Vector


def random_look(random: np.random.Generator) -> Look:
    """A cool wall, so that no skin vanishes in front of it, and whatever else comes."""
    wall = random.uniform([90, 125, 145], [150, 185, 215])
    floor = wall * random.uniform(0.55, 0.8)
    stage = np.empty((HEIGHT * 2, WIDTH * 2, 3), np.uint8)
    stage[:] = wall
    stage[int(HEIGHT * 2 * 0.7) :] = floor
    skin = np.array([226, 188, 164]) * random.uniform(0.6, 1.0)
    return Look(stage, random.uniform(236, 284), random.uniform(20, 110, 3), skin, floor * 0.75)


def draw(look: Look, pose: Pose, turn: float, x: float, height: float) -> NDArray[np.uint8]:
    """One picture, (240, 320, 3) uint8 RGB: drawn at twice the size and averaged down, far limbs first.

    Args:
        turn: radians about the vertical; 0 faces the audience, a quarter turn faces right.
        x: place on the stage, body heights from its middle.
        height: of the flight, body heights; 0 stands.
    """
    side = np.array([1.0, 0, 0])
    hips, shoulders = [side * _HIP, -side * _HIP], [side * _SHOULDER, -side * _SHOULDER]
    up = np.array([0, _TORSO, 0])
    limbs = pose * _LENGTHS
    starts = [hips[0], hips[0] + limbs[0], hips[1], hips[1] + limbs[2]]
    starts += [up + shoulders[0], up + shoulders[0] + limbs[4], up + shoulders[1], up + shoulders[1] + limbs[6]]
    ends = [start + limb for start, limb in zip(starts, limbs, strict=True)]
    # On the floor the lower foot carries; in the air the hips fly on, whatever the legs do.
    air = min(1.0, height / 0.06)
    lift = np.array([0, (1 - air) * -min(ends[1][1], ends[3][1]) + air * 0.51 + height, 0])
    picture = look.stage.copy()
    ground = int(HEIGHT * 2 * 0.86)
    centre = WIDTH + x * look.scale
    rotation = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])

    def place(point: Vector) -> tuple[Vector, float]:
        rotated = rotation @ (point + lift)
        return np.array([centre + rotated[0] * look.scale, ground - rotated[1] * look.scale]), rotated[2]

    shadow = (int(look.scale * 0.16 / (1 + 2 * height)), int(look.scale * 0.025))
    cv2.ellipse(picture, (int(centre), ground + 4), shadow, 0, 0, 360, look.shadow.tolist(), -1, cv2.LINE_AA)

    radii = [(0.042, 0.03), (0.03, 0.016)] * 2 + [(0.022, 0.018), (0.018, 0.012)] * 2
    parts: list[tuple[float, Any]] = []
    for i, (start, end, (r0, r1)) in enumerate(zip(starts, ends, radii, strict=True)):
        (a, za), (b, zb) = place(start), place(end)
        tone = look.skin * (0.94 if i in (2, 3, 6, 7) else 1.0)
        parts.append(((za + zb) / 2, ([(a, r0), (b, r1)], tone)))
    corners = ((hips[0], 0.05), (hips[1], 0.05), (up + side * 0.075, 0.03), (up - side * 0.075, 0.03))
    parts.append((0.0, ([(place(point)[0], radius) for point, radius in corners], look.cloth)))
    head = up + np.array([0, 0.115, 0])
    for point, radius, tone in (
        (head, _HEAD, look.skin),
        (head + np.array([0, 0.02, -0.03]), _HEAD * 0.98, look.cloth * 0.4),
        (head + np.array([0, 0.05, -0.075]), 0.03, look.cloth * 0.4),
    ):
        at, z = place(point)
        parts.append((z, ([(at, radius)], tone)))
    neck = [(place(up)[0], 0.022), (place(up * 1.28)[0], 0.02)]
    parts.append((-0.01, (neck, look.skin * 0.94)))
    for _, (circles, tone) in sorted(parts, key=lambda part: part[0]):
        _blob(picture, circles, look.scale, tone)
    return cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _blob(picture: NDArray[np.uint8], circles: list[tuple[Vector, float]], scale: float, tone: Vector) -> None:
    """Fill the convex hull of circles: a limb is two, the torso four."""
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    outline = np.concatenate([centre + ring * radius * scale for centre, radius in circles])
    hull = cv2.convexHull(np.round(outline * 16).astype(np.int32))
    cv2.fillConvexPoly(picture, hull, tone.tolist(), cv2.LINE_AA, shift=4)
