"""A dancer's body: the joints that are recorded and the lengths between them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

COCO = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
"""The 17 keypoints of COCO, in its order."""

JOINTS = (*COCO, "left_toe", "right_toe", "left_hand", "right_hand", "head_top")
"""What is recorded: COCO's keypoints, then what a ballet picture needs besides: tips of feet and hands, crown."""

JOINT = {name: index for index, name in enumerate(JOINTS)}

Style = Literal["woman", "man"]


@dataclass(frozen=True)
class Body:
    """Lengths in metres.

    Attributes:
        style: decides repertoire and costume as the annotation guide does ("performed by males", "only females").
        stature: standing height.
        thigh, shank, foot: hip to knee, knee to ankle, ankle to tip of the toes.
        ankle: height of the ankle over a flat foot.
        hips, shoulders: half the distance between the joints.
        trunk: middle of the hips to the base of the neck.
        neck, head: base of the neck to the ears' middle, and from there to the crown.
        arm, forearm, hand: shoulder to elbow, to wrist, to finger tips.
    """

    style: Style
    stature: float
    thigh: float
    shank: float
    foot: float
    ankle: float
    hips: float
    shoulders: float
    trunk: float
    neck: float
    head: float
    arm: float
    forearm: float
    hand: float

    @property
    def leg(self) -> float:
        """Hip to ankle, stretched."""
        return self.thigh + self.shank

    @property
    def standing(self) -> float:
        """Height of the hips over the floor on straight legs and flat feet."""
        return self.leg + self.ankle


def random_body(random: np.random.Generator, style: Style) -> Body:
    """A dancer: long legs, and proportions that differ by a few per cent from one to the next."""
    stature = float(random.uniform(1.56, 1.72) if style == "woman" else random.uniform(1.70, 1.86))

    def part(share: float, spread: float = 0.03) -> float:
        return stature * share * float(random.uniform(1 - spread, 1 + spread))

    leg = part(0.49)
    ankle = stature * 0.043
    trunk = part(0.285, 0.02)
    # Whatever legs and trunk leave is neck and head.
    rest = stature - leg - ankle - trunk
    return Body(
        style=style,
        stature=stature,
        thigh=leg * 0.5,
        shank=leg * 0.5,
        foot=part(0.125),
        ankle=ankle,
        hips=part(0.05 if style == "woman" else 0.048),
        shoulders=part(0.098 if style == "woman" else 0.115),
        trunk=trunk,
        neck=rest * 0.56,
        head=rest * 0.44,
        arm=part(0.165),
        forearm=part(0.145),
        hand=part(0.075),
    )
