"""Jumps: cabrioles, grand jeté, sissonne fermée, tour en l'air; right-hand versions. Flights are ballistic.

Where they start and end follows the AnnChor annotation guide (its classes 4-7, 10, 11, 14-16). Travel to the right is
to the picture's left for a dancer who faces the audience. The functions have the form
:data:`balletal.synthetic.steps.DanceStep`.
"""

import numpy as np

from balletal.synthetic.dance import Dance, Feet, off, on
from balletal.synthetic.motion import Foot
from balletal.synthetic.steps import FIFTH, UPRIGHT, gather, mark


def run_up(d: Dance, random: np.random.Generator, facing: float) -> None:
    """Two quick steps to the right that end in fondu on the left foot, weight arriving, right leg passing."""
    lead = float(random.uniform(0.5, 0.65))
    d.hold()
    d.key(0.5 * lead, place=(-0.3, 0), height=-0.06, yaw=facing * 0.7, trunk=UPRIGHT, gaze=(facing * 0.6, 0),
          arms=("demi", "demi"), speed=(-1.2, 0),
          right=d.under("right", (-0.38, 0), facing * 0.7, lift=0.08))  # fmt: skip
    d.stay(0.5 * lead, "left")
    place = (-0.72, 0.0)
    d.key(lead, place=place, height=-0.12, yaw=facing, gaze=(facing, 0), arms=("first", "first"), trunk=UPRIGHT,
          left=d.under("left", (place[0] - 0.04, 0), facing, lift=0.08), speed=(-1.5, 0))  # fmt: skip
    d.stay(lead - 0.1, "right")
    d.key(lead, right=off(-0.05, -0.9, -0.2, reach=0.9))
    d.advance(lead, place)


def touch(seconds: float) -> float:
    """When the toes are back on the floor: a little before the foot is flat under a bent leg."""
    return seconds - max(0.17 * seconds, 0.11)


def together(d: Dance, x: float, y: float, z: float) -> dict[Feet, Foot]:
    """Both legs stretched in one direction (body coordinates, from the middle of the hips), one foot at the other."""
    way = 0.97 * np.array([x, y, z]) / np.linalg.norm([x, y, z])
    legs = {}
    sides: tuple[tuple[Feet, float], ...] = (("left", 1.0), ("right", -1.0))
    for name, side in sides:
        leg = way - np.array([0.75 * side * d.body.hips / d.body.leg, 0.0, 0.0])
        legs[name] = off(*leg, reach=min(1.0, float(np.linalg.norm(leg))))
    return legs


def step_through(d: Dance, after: float, place: tuple[float, float], landed: Feet) -> None:
    """Come to rest on both feet, facing front, after a landing on one."""
    free: Feet = "right" if landed == "left" else "left"
    d.stay(after, landed)
    d.key(after + 0.08, height=-0.15)
    done = after + 0.5
    d.feet(after + 0.34, **{free: d.under(free, (place[0] + (-0.1 if free == "right" else 0.1), place[1]), 0.0)})
    d.key(done, place=place, height=-0.03, yaw=0, trunk=UPRIGHT, gaze=(0, 0), arms=("demi", "demi"))
    d.feet(done, **{landed: d.under(landed, place, 0.0, lift=0.04)})
    d.advance(done, place)


def cabriole_devant(d: Dance, seconds: float, random: np.random.Generator, how: str, first: bool, last: bool) -> None:
    """Cabriole devant, moving to the right: from the kick on a bent left leg to the landing on it, right one ahead."""
    facing = float(random.uniform(-1.25, -0.8))
    run_up(d, random, facing)
    push, land = 0.24 * seconds, touch(seconds)
    leave, to = (-0.16, 0.0), (-0.16 - float(random.uniform(1.4, 2.0)) * (land - push), 0.0)
    d.hold()
    d.key(push, left=on(*d.local(d.foot("left").toe), rise=1), yaw=facing, gaze=(facing, 0.15),
          arms=("second", "first"), trunk=(-0.1, 0, 0))  # fmt: skip
    d.flight(push, land, frm=leave, to=to)
    middle = (push + land) / 2
    d.feet(push + 0.1 * seconds, right=off(0, -0.05, 1))
    d.key(middle, trunk=(-0.3, 0, 0), arms=("high", "side"))
    d.feet(middle, **together(d, 0.0, -0.4, 0.9))
    d.key(middle + 0.22 * seconds, right=off(-0.02, 0.05, 1))
    foot = d.under("left", to, facing)
    d.key(land, left=on(*foot.toe, rise=0.9), trunk=(-0.12, 0, 0))
    rest = (to[0] - 0.05, 0.0)
    d.key(seconds, left=foot, height=-0.08, place=rest, right=off(-0.02, -0.25, 1), trunk=(-0.05, 0, 0),
          yaw=facing, gaze=(facing, 0.05), arms=("high", "side"))  # fmt: skip
    mark(d, "CabrioleDevantRight", "CabrioleDevantLeft", 0, seconds)
    step_through(d, seconds, (rest[0] - 0.1, 0), "left")


def cabriole_derriere(d: Dance, seconds: float, random: np.random.Generator, how: str, first: bool, last: bool) -> None:
    """Cabriole derrière, moving to the right: kick, half a turn in the air, beat behind, landing in arabesque.

    The right leg keeps pointing where she goes while the body turns under it, so it is in front at first and behind at
    the end. ``how``: "single" or "double" beat; there is no time for two in a short one.
    """
    facing, landing = float(random.uniform(-1.2, -0.9)), float(random.uniform(1.0, 1.4))
    run_up(d, random, facing)
    push, land = 0.24 * seconds, touch(seconds)
    leave, to = (-0.16, 0.0), (-0.16 - float(random.uniform(1.2, 1.8)) * (land - push), 0.0)

    def ahead(yaw: float, up: float) -> tuple[float, float, float]:
        """The direction of travel in body coordinates, for a dancer who faces ``yaw``."""
        return (-float(np.cos(yaw)), up, -float(np.sin(yaw)))

    d.hold()
    d.key(push, left=on(*d.local(d.foot("left").toe), rise=1), yaw=facing + 0.6, gaze=(facing, 0.1),
          arms=("first", "first"), trunk=(-0.08, 0, 0))  # fmt: skip
    d.flight(push, land, frm=leave, to=to)
    span = land - push
    d.feet(push + 0.06 * seconds, right=off(*ahead(facing + 0.8, 0.0)))
    turned = facing + 0.85 * (landing - facing)
    d.key(push + 0.42 * span, yaw=turned, gaze=(turned, 0.2), trunk=(0.3, 0, 0), arms=("high", "open_high"))
    beats = (0.4, 0.64) if how == "double" and seconds > 0.7 else (0.48,)
    for beat in beats:
        d.feet(push + beat * span, **together(d, *ahead(turned, -0.7)))
        d.key(push + (beat + 0.14) * span, right=off(*ahead(turned, -0.1)), left=off(*ahead(turned, -2.0)))
    d.key(push + 0.9 * span, yaw=landing)
    foot = d.under("left", to, landing)
    d.key(land, left=on(*foot.toe, rise=0.9), yaw=landing)
    rest = (to[0] + 0.02, 0.02)
    d.key(seconds, left=foot, height=-0.08, place=rest, right=off(-0.25, 0.1, -1), trunk=(0.4, 0, 0), yaw=landing,
          gaze=(landing, 0.15), arms=("ahead", "side"))  # fmt: skip
    mark(d, "CabrioleDerriereRight", "CabrioleDerriereLeft", 0, seconds)
    d.hold(seconds + 0.12, "trunk", "arms")
    d.stay(seconds + 0.12, "right")
    step_through(d, seconds + 0.12, rest, "left")


def grand_jete(d: Dance, seconds: float, random: np.random.Generator, how: str, first: bool, last: bool) -> None:
    """Grand jeté to the right: from the weight on the left foot, split in the air, to fondu on the right foot.

    ``how``: "straight" (the front leg brushes) or "developpe" (it unfolds).
    """
    facing = float(random.uniform(-1.35, -0.9))
    run_up(d, random, facing)
    push, land = 0.28 * seconds, touch(seconds)
    leave, to = (-0.2, 0.0), (-0.2 - float(random.uniform(2.2, 3.0)) * (land - push), 0.0)
    span = land - push
    d.hold()
    brush = off(0, -0.35, 0.95) if how == "straight" else off(0, -0.25, 0.9, reach=0.7, knee=0.3)
    high = str(random.choice(["high", "arabesque", "third"]))
    arms = {"high": ("high", "high"), "arabesque": ("side", "ahead"), "third": ("high", "side")}[high]
    d.key(push, left=on(*d.local(d.foot("left").toe), rise=1), right=brush, yaw=facing, gaze=(facing, 0.15),
          trunk=UPRIGHT, arms=("first", "first"))  # fmt: skip
    d.flight(push, land, frm=leave, to=to)
    split = float(random.uniform(-0.12, 0.1))
    d.key(push + 0.42 * span, right=off(0, split, 1), left=off(0.04, split - 0.02, -1), arms=arms, trunk=(-0.08, 0, 0))
    d.key(push + 0.52 * span, right=off(0, split - 0.03, 1), left=off(0.04, split, -1), arms=arms)
    foot = d.under("right", to, facing)
    d.key(land, right=on(*foot.toe, rise=0.9), trunk=(0.05, 0, 0))
    rest = (to[0] - 0.1, 0.0)
    d.key(seconds, right=foot, place=rest, height=-0.08, left=off(0.05, -0.12, -1), trunk=(0.22, 0, 0), yaw=facing,
          gaze=(facing, 0.1), arms=arms)  # fmt: skip
    mark(d, "GrandJeteRight", "GrandJeteLeft", 0, seconds)
    step_through(d, seconds + 0.05, (rest[0] - 0.12, 0), "right")


def sissonne(d: Dance, seconds: float, random: np.random.Generator, how: str, first: bool, last: bool) -> None:
    """Sissonne fermée de côté to the right, away from the lifted left leg: from fifth in plié to fifth in plié."""
    gather(d, float(random.uniform(0.35, 0.5)), height=-0.14, arms=("low", "low"))
    push, land = 0.26 * seconds, 0.74 * seconds
    way = -float(random.uniform(1.1, 1.6)) * (land - push)
    d.hold()
    d.key(push, left=on(0.13, 0.09, rise=1), right=on(-0.13, 0.15, rise=1), arms=("demi", "demi"))
    d.flight(push, land, frm=(-0.03, 0.02), to=(way, 0.02))
    middle = (push + land) / 2
    open_arms = ("side", "side") if how == "side" else ("side", "high")
    d.key(middle, left=off(0.85, -0.5, 0.0), right=off(-0.35, -0.95, 0.02), arms=open_arms, trunk=(0, -0.1, 0),
          gaze=(-0.25, 0.1))  # fmt: skip
    foot = d.under("right", (way, 0), 0.0)
    d.feet(land - 0.05 * seconds, left=off(0.72, -0.7, 0.0))
    d.key(land, right=on(*foot.toe, rise=0.9))
    d.key(seconds, place=(way - 0.02, 0), height=-0.14, trunk=UPRIGHT, arms=("demi", "demi"), gaze=(0, 0.05), yaw=0,
          right=foot, left=on(foot.toe[0] + 0.24, foot.toe[1] + 0.05, lift=0.01))  # fmt: skip
    mark(d, "SissonneFRight", "SissonneFLeft", 0, seconds)
    d.key(seconds + 0.3, height=-0.02, place=(way - 0.02, 0), arms=("low", "low"))
    d.stay(seconds + 0.3, "left", "right")
    d.advance(seconds + 0.3, (way - 0.02, 0))


def tour_en_lair(d: Dance, seconds: float, random: np.random.Generator, how: str, first: bool, last: bool) -> None:
    """Tour en l'air: from the deepest plié in fifth, one turn or two in the air, to the landing on bent legs.

    ``how``: "single" or "double", each also "... retire" (one foot at the knee).
    """
    gather(d, float(random.uniform(0.5, 0.7)), height=-0.24, arms=("second", "first"))
    land = seconds - 0.12
    flying = float(np.clip(0.62 * seconds, 0.36, 0.66))
    push = land - flying
    d.hold()
    d.hold(max(0.01, push - 0.2), "height")
    d.stay(max(0.3 * push, push - 0.2), "left", "right")
    d.key(push, left=on(0.1, 0.1, rise=1), right=on(-0.1, 0.14, rise=1), arms=("closed", "closed"), trunk=UPRIGHT)
    d.flight(push, land, frm=(0, 0.08), to=(0, 0.03))
    turns = 2 if "double" in how else 1
    d.turn(push - 0.06, land + 0.03, 2 * np.pi * turns, spots=turns, first=True, last=True)
    straight: dict[Feet, Foot] = {"left": off(-0.07, -1, -0.02), "right": off(0.07, -1, 0.05)}
    d.feet(push + 0.12 * flying, **straight)
    if "retire" in how:
        d.key(push + 0.4 * flying, right=off(0.14, -0.95, 0.2, reach=0.6, knee=1.3), left=straight["left"])
        d.key(push + 0.62 * flying, right=off(0.14, -0.95, 0.2, reach=0.6, knee=1.3), left=straight["left"])
    d.feet(land - 0.06, **straight)
    d.key(land + 0.02, arms=("closed", "closed"))
    d.feet(land, **{name: on(*foot.toe, rise=0.9) for name, foot in FIFTH.items()})
    d.mark("TourEnLair", 0, seconds)
    d.advance(land + 0.03, turned=2 * np.pi * turns)
    d.key(0.09, height=-0.11, place=(0, 0.02), trunk=UPRIGHT, yaw=0.0)
    d.feet(0.09, **FIFTH)
    d.key(0.2, height=-0.22, arms=("second", "second"))
    d.key(0.5, height=0.0, place=(0, 0), yaw=0, gaze=(0, 0.05), arms=("side", "side"))
    d.feet(0.5, **FIFTH)
    d.advance(0.5)
