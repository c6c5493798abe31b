"""For tests: a step danced by itself and seen from the dancer's own front, as its right-hand version."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balletal.synthetic.body import JOINT, JOINTS, random_body
from balletal.synthetic.dance import Dance, Segment
from balletal.synthetic.motion import Motion
from balletal.synthetic.repertoire import STEPS
from balletal.synthetic.steps import FIFTH

Floats = NDArray[np.float64]
RATE = 100
"""Moments a second."""
FRAME = 0.04
"""A frame of a video of 25 a second, in seconds."""
MIRRORED = [JOINT[n.replace("left", "?").replace("right", "left").replace("?", "right")] for n in JOINTS]


@dataclass(frozen=True)
class Seen:
    """Joints of a step, turned so that the dancer's front is +z and mirrored if it was a left one.

    Attributes:
        t: (T,) seconds. joints: (T, 22, 3) metres. segments: what was annotated.
    """

    motion: Motion
    t: Floats
    joints: Floats
    segments: list[Segment]

    def __getitem__(self, name: str) -> Floats:
        """(T, 3) of a joint, or of the middle of a pair: "hips", "ears"."""
        if name.endswith("s"):
            return (self["left_" + name[:-1]] + self["right_" + name[:-1]]) / 2
        return self.joints[:, JOINT[name]]

    def at(self, time: float) -> int:
        return int(np.argmin(np.abs(self.t - time)))

    @property
    def start(self) -> float:
        """Of the first segment."""
        return self.segments[0].start

    @property
    def end(self) -> float:
        """Of the first segment."""
        return self.segments[0].end

    @property
    def yaw(self) -> Floats:
        """(T,) where the hips face, radians, unwrapped; 0 is the front, growing to her left."""
        across = self["left_hip"] - self["right_hip"]
        return np.unwrap(np.arctan2(-across[:, 2], across[:, 0]))

    @property
    def gaze(self) -> Floats:
        """(T,) where the nose points, radians, unwrapped."""
        ahead = self["nose"] - self["ears"]
        return np.unwrap(np.arctan2(ahead[:, 0], ahead[:, 2]))

    def knee(self, side: str) -> Floats:
        """(T,) the angle in a knee, degrees; 180 is a straight leg."""
        hip, knee, ankle = (self[f"{side}_{name}"] for name in ("hip", "knee", "ankle"))
        a, b = hip - knee, ankle - knee
        cosine = np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        return np.degrees(np.arccos(np.clip(cosine, -1, 1)))

    def speed(self, name: str) -> Floats:
        """(T,) metres a second."""
        return np.linalg.norm(np.gradient(self[name], 1 / RATE, axis=0), axis=1)

    def down(self, side: str) -> NDArray[np.bool_]:
        """(T,) whether the tip of a foot rests on the floor: below 1 cm and slower than 60 cm a second."""
        return (self[f"{side}_toe"][:, 1] < 0.01) & (self.speed(f"{side}_toe") < 0.6)

    def leaves(self, side: str, before: float) -> float:
        """The first moment at which the tip of a foot is 1 cm off the place where it last rested ``before`` then."""
        toe, speed = self[f"{side}_toe"], self.speed(f"{side}_toe")
        slowest = np.zeros(len(speed), bool)
        slowest[1:-1] = (speed[1:-1] <= speed[:-2]) & (speed[1:-1] <= speed[2:])
        rest = np.flatnonzero((self.down(side) & slowest)[: self.at(before)])[-1]
        return float(self.t[rest + np.argmax(np.linalg.norm(toe[rest:] - toe[rest], axis=1) > 0.01)])

    def settles(self, side: str, after: float) -> float:
        """The first moment ``after`` then from which the foot is flat: its ankle within 1 cm of its height standing."""
        first = self.at(after)
        high = self[f"{side}_ankle"][first:, 1] > self.motion.body.ankle + 0.01
        return float(self.t[first + np.argmin(high)])

    def rises(self, side: str, before: float) -> float:
        """The first moment at which the heel is 1 cm off the floor, of the rise that goes on until ``before``."""
        last = self.at(before)
        high = self[f"{side}_ankle"][:last, 1] > self.motion.body.ankle + 0.01
        return float(self.t[np.flatnonzero(~high)[-1] + 1])

    def flight(self) -> tuple[float, float]:
        """The first and the last moment of the flight around the segment's middle: both feet over 1 cm up."""
        up = (self["left_toe"][:, 1] > 0.01) & (self["right_toe"][:, 1] > 0.01)
        middle = self.at((self.start + self.end) / 2)
        assert up[middle], "not in the air in the middle"
        before, after = np.flatnonzero(~up[:middle]), np.flatnonzero(~up[middle:])
        return float(self.t[before[-1] + 1]), float(self.t[middle + after[0] - 1])

    def lowest(self, start: float, end: float) -> float:
        """When the hips are lowest between two moments; the first of moments within 1 mm."""
        part = slice(self.at(start), self.at(end) + 1)
        height = self["hips"][part, 1]
        return float(self.t[part][np.argmax(height < height.min() + 0.001)])

    def slid(self, name: str, start: float, end: float) -> float:
        """How far a joint moves at most from where it is at ``end``, between two moments; metres."""
        part = self[name][self.at(start) : self.at(end) + 1]
        return float(np.linalg.norm(part - part[-1], axis=1).max())


def alone(name: str, how: str, *, seed: int, side: int = 1, seconds: float | None = None, count: int = 1) -> Seen:
    """Stand, then dance ``count`` of a step of :data:`balletal.synthetic.repertoire.STEPS`, then stand."""
    step, random = STEPS[name], np.random.default_rng(seed)
    style = next(style for style in step.manners if how in step.manners[style])
    front = float(random.uniform(-0.7, 0.7))
    dance = Dance(random_body(random, style), (0.3 * side, 0.0), side * front)
    dance.side = side
    dance.feet(0.0, **FIFTH)
    dance.key(0.4, height=0.0)
    dance.advance(0.4)
    duration = step.duration(random) if seconds is None else seconds
    for n in range(count):
        step.dance(dance, duration, random, how, n == 0, n == count - 1)
    dance.hold(0.5)
    motion = dance.motion(dance.time + 0.5)
    t = np.arange(0, motion.seconds, 1 / RATE)
    x, y, z = np.moveaxis(motion.joints(t), 2, 0)
    cosine, sine = np.cos(side * front), np.sin(side * front)
    joints = np.stack([x * cosine - z * sine, y, x * sine + z * cosine], axis=2)
    if side < 0:
        joints = joints[:, MIRRORED] * [-1.0, 1.0, 1.0]
    return Seen(motion, t, joints, dance.segments)


def every(name: str) -> Iterator[Seen]:
    """A step in all its manners and at all quantiles of its duration, right and left in turn."""
    step = STEPS[name]
    for how in dict.fromkeys(how for manners in step.manners.values() for how in manners):
        for seed, seconds in enumerate((*step.seconds, step.seconds[2])):
            yield alone(name, how, seed=seed, side=(-1) ** seed, seconds=seconds)
