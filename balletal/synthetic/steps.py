"""What all steps share: the form of their functions, fifth position, the rise, and how sides are named."""

from collections.abc import Callable

import numpy as np

from balletal.synthetic.dance import Dance, Feet, on
from balletal.synthetic.motion import Foot

DanceStep = Callable[[Dance, float, np.random.Generator, str, bool, bool], None]
"""``step(dance, seconds, random, how, first, last)`` dances one step of a series and marks it: ``seconds`` from the
guide's start to its end, in the manner ``how``; ``first`` and ``last`` say whether it opens or closes the series. What
leads in and out lies before and after, unmarked."""

FIFTH: dict[Feet, Foot] = {"left": on(0.13, 0.09), "right": on(-0.13, 0.15)}
UPRIGHT = (0.0, 0.0, 0.0)
RISEN = 0.135
"""Height of the hips over standing on a leg on pointe, metres; a little more than it allows, for a straight knee."""


def pointe(d: Dance) -> float:
    """How far this dancer rises: full pointe, or a man's demi-pointe."""
    return 1.0 if d.body.style == "woman" else 0.72


def mark(d: Dance, right: str, left: str, start: float, end: float) -> None:
    """Mark a step by the side it is danced on."""
    d.mark(right if d.side > 0 else left, start, end)


def gather(d: Dance, seconds: float, *, height: float = -0.1, arms: tuple[str, str] = ("low", "low")) -> None:
    """Come to fifth position in plié in front of whatever comes next."""
    d.hold()
    d.key(seconds, place=(0, 0), height=height, yaw=0, trunk=UPRIGHT, gaze=(0, 0.05), arms=arms)
    d.feet(seconds, **FIFTH)
    d.advance(seconds)
