"""Pirouettes: every turn on one leg, a segment a rotation (AnnChor guide, classes 8 and 9); right-hand versions.

Right means the right leg supports, whichever way the turn goes. A rotation starts and ends where body and head face the
dancer's front; the head spots. The function is a :data:`balletal.synthetic.steps.DanceStep`.
"""

import numpy as np

from balletal.synthetic.dance import Dance, off, on
from balletal.synthetic.motion import Foot
from balletal.synthetic.steps import RISEN, UPRIGHT, mark, pointe

FULL = 2 * np.pi
PASSE = off(-0.16, -0.94, 0.22, reach=0.54, knee=1.4)
SECOND = off(1.0, -0.08, 0.05)
ATTITUDE = off(0.35, -0.05, -0.9, reach=0.78, knee=2.1)


def pirouette(d: Dance, seconds: float, random: np.random.Generator, how: str, first: bool, last: bool) -> None:
    """One rotation on the right leg.

    ``how``: "retire", "attitude" or "second", rotations of one rise in that position; "fouette", a bend and a whip of
    the left leg for each; "pique", each stepped onto, travelling to the right.
    """
    if how in ("fouette", "pique"):
        seconds = max(seconds, 0.58)  # a whip or a step takes its time
    if how == "fouette":
        _fouette(d, seconds, random, first, last)
    elif how == "pique":
        _pique(d, seconds, random, first, last)
    else:
        working = {"retire": PASSE, "attitude": ATTITUDE, "second": SECOND}[how]
        _held(d, seconds, random, working, first, last)


def _prepare(d: Dance, random: np.random.Generator) -> Foot:
    """Fourth position in plié, weight over the right foot; returns that foot."""
    lead = float(random.uniform(0.5, 0.75))
    stand = d.under("right", (-0.02, 0.08), 0.0)
    d.hold()
    d.key(lead, place=(-0.01, 0.0), height=-0.13, yaw=0, trunk=UPRIGHT, gaze=(0, 0.05), arms=("second", "first"),
          right=stand, left=on(0.16, -0.22, lift=0.03))  # fmt: skip
    d.advance(lead)
    d.hold()
    return stand


def _close(d: Dance, stand: tuple[float, float], arms: str = "second") -> None:
    """Down from the rise into fourth position, left foot behind."""
    d.key(0.26, place=(stand[0] + 0.06, stand[1] - 0.2), height=-0.12, right=on(*stand), trunk=UPRIGHT, yaw=0.0,
          left=on(stand[0] + 0.2, stand[1] - 0.36, lift=0.02), arms=(arms, arms), gaze=(0, 0.05))  # fmt: skip
    d.advance(0.26, (stand[0] + 0.06, stand[1] - 0.2))
    d.hold(0.15)
    d.key(0.5, height=0.0, arms=("demi", "demi"))
    d.advance(0.5)


def _held(d: Dance, seconds: float, random: np.random.Generator, working: Foot, first: bool, last: bool) -> None:
    if first:
        stand = _prepare(d, random)
        rise = 0.2
        d.key(rise, place=(stand.toe[0] + 0.02, stand.toe[1]), height=RISEN, right=on(*stand.toe, rise=pointe(d)),
              left=working, yaw=0.0, gaze=(0, 0.05), trunk=UPRIGHT,
              arms=("side", "side") if working is SECOND else ("high", "side") if working is ATTITUDE
              else ("closed", "closed"))  # fmt: skip
        d.advance(rise, (stand.toe[0] + 0.02, stand.toe[1]))
    d.turn(0, seconds, FULL, spots=1, first=first, last=last)
    d.hold(seconds, "place", "height", "trunk", "arms")
    d.stay(seconds, "left", "right")
    mark(d, "PirouetteRight", "PirouetteLeft", 0, seconds)
    d.advance(seconds, turned=FULL)
    if last:
        _close(d, d.local(d.foot("right").toe))


def _fouette(d: Dance, seconds: float, random: np.random.Generator, first: bool, last: bool) -> None:
    if first:
        stand = _prepare(d, random)
        d.key(0.22, place=(stand.toe[0] + 0.03, stand.toe[1] - 0.1), height=-0.09, right=stand,
              left=off(0.1, -0.25, 0.95), yaw=0.0, gaze=(0, 0.05), arms=("first", "first"))  # fmt: skip
        d.advance(0.22)
        d.hold()
    toe = d.local(d.foot("right").toe)
    low, high = (toe[0] + 0.03, toe[1] - 0.1), (toe[0] + 0.02, toe[1])
    up = pointe(d)
    d.key(0.28 * seconds, left=off(1, -0.12, 0.2), arms=("second", "second"), right=on(*toe, rise=up), height=RISEN,
          place=high)  # fmt: skip
    d.key(0.48 * seconds, left=PASSE, arms=("closed", "closed"))
    d.key(0.82 * seconds, left=PASSE, arms=("closed", "closed"), right=on(*toe, rise=up), height=RISEN, place=high)
    d.key(seconds, left=off(0.1, -0.25, 0.95), arms=("first", "first"), right=on(*toe), height=-0.09, place=low)
    d.turn(0.0, seconds, FULL, spots=1, first=first, last=last)
    mark(d, "PirouetteRight", "PirouetteLeft", 0, seconds)
    d.advance(seconds, turned=FULL)
    if last:
        _close(d, d.local(d.foot("right").toe))


def _pique(d: Dance, seconds: float, random: np.random.Generator, first: bool, last: bool) -> None:
    """Turns inward, to the right, each on a new place half a metre on; the left foot catches between them."""
    way = -0.42
    if first:
        lead = float(random.uniform(0.45, 0.6))
        d.hold()
        d.key(lead, place=(0, 0), height=-0.1, yaw=0, trunk=UPRIGHT, gaze=(-0.4, 0.05), arms=("second", "first"),
              left=d.under("left", (0.0, 0), 0.0), right=off(-0.7, -0.7, 0.12))  # fmt: skip
        d.advance(lead)
    d.hold()
    toe = (way, 0.02)
    d.key(0.27 * seconds, place=(way + 0.04, 0.0), height=0.09, right=on(*toe, rise=pointe(d)),
          arms=("closed", "closed"), left=off(0.1, -0.9, -0.3, reach=0.85))  # fmt: skip
    d.key(0.42 * seconds, left=off(-0.12, -0.94, -0.2, reach=0.56, knee=1.4), place=toe,
          height=RISEN)  # fmt: skip
    d.key(0.74 * seconds, place=toe, height=RISEN, right=on(*toe, rise=pointe(d)), arms=("closed", "closed"),
          left=off(-0.12, -0.94, -0.2, reach=0.56, knee=1.4))  # fmt: skip
    there = (way - 0.02, 0.0)
    d.key(seconds, place=there, height=-0.08, left=d.under("left", there, -FULL), arms=("second", "first"),
          right=off(-0.7, -0.7, 0.12))  # fmt: skip
    d.turn(0.0, seconds, -FULL, spots=1, first=first, last=last)
    mark(d, "PirouetteRight", "PirouetteLeft", 0, seconds)
    d.advance(seconds, there, turned=-FULL)
    if last:
        d.key(0.35, place=(0, 0), height=0.0, yaw=0, gaze=(0, 0.05), arms=("demi", "demi"),
              right=d.under("right", (0, 0), 0.0), left=d.under("left", (0, 0), 0.0))  # fmt: skip
        d.advance(0.35)
