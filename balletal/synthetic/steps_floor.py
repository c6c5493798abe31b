"""Steps that stay on the floor: extensions, courus, échappés, balancés. Each is written in its right-hand version.

Where a step starts and ends, and what right and left mean, follows the AnnChor annotation guide (its classes 0-3, 12,
13, 17, 18); the sample clips decided facing, arms and timing. The functions are
:data:`balletal.synthetic.steps.DanceStep`.
"""

import numpy as np

from balletal.synthetic.dance import Dance, Feet, off, on
from balletal.synthetic.steps import RISEN, UPRIGHT, gather, mark, pointe


def extension_derriere(
    d: Dance, seconds: float, random: np.random.Generator, how: str, first: bool, last: bool
) -> None:
    """Balancing extension derrière, on the right leg: from the left leg's first lift to its full height behind.

    ``how``: "arabesque" or "attitude", each also "... fondu" (on a bent leg).
    """
    lead, fondu, bent = float(random.uniform(0.4, 0.6)), "fondu" in how, "attitude" in how
    facing = float(random.uniform(-1.45, -0.9))
    stand = d.under("right", (-0.05, 0.06), 0.0)
    d.hold()
    d.key(lead, place=(-0.04, 0.05), height=-0.1, yaw=0.0, trunk=UPRIGHT, gaze=(-0.2, 0), arms=("demi", "first"),
          right=stand, left=on(0.14, -0.2, rise=0.8, lift=0.02))  # fmt: skip
    d.advance(lead)
    up = 0.55 * seconds
    d.hold()
    d.key(up, height=-0.1 if fondu else RISEN, place=(stand.toe[0] + 0.02, stand.toe[1] - 0.02),
          right=on(*stand.toe, rise=0.0 if fondu else pointe(d)))  # fmt: skip
    angle = float(random.uniform(-0.05, 0.45))
    back = off(0.08, float(np.sin(angle)), -float(np.cos(angle)))
    if bent:
        back = off(0.3, 0.18, -0.95, reach=0.78, knee=2.1)
    front_arm = ("high", "side") if bent else ("side", "ahead")
    d.key(seconds, yaw=facing, trunk=(0.32, -0.02, 0), gaze=(facing * 0.8, 0.2), arms=front_arm, left=back)
    mark(d, "ExtDerriereOnRight", "ExtDerriereOnLeft", 0, seconds)
    held = seconds + float(random.uniform(0.12, 0.8))
    d.hold(held)
    down = held + float(random.uniform(0.4, 0.6))
    d.key(down, place=(0, 0.05), height=-0.06, yaw=0, trunk=UPRIGHT, gaze=(0, 0), arms=("demi", "low"),
          right=on(*stand.toe), left=on(0.16, -0.02))  # fmt: skip
    d.advance(down, (0, 0.05))


def extension_second(d: Dance, seconds: float, random: np.random.Generator, how: str, first: bool, last: bool) -> None:
    """Balancing extension in second, of the right leg: from its first move upward to its full height at the side.

    ``how``: "developpe" or "battement" (straight), each also "... fondu".
    """
    lead, fondu = float(random.uniform(0.4, 0.6)), "fondu" in how
    stand = d.under("left", (0.03, 0.0), 0.0)
    d.hold()
    d.key(lead, place=(0.03, 0), height=-0.1, yaw=0, trunk=UPRIGHT, gaze=(0, 0), arms=("second", "first"),
          left=stand, right=on(-0.16, 0.17, rise=0.6, lift=0.02))  # fmt: skip
    d.advance(lead)
    d.hold()
    d.key(0.45 * seconds, height=-0.12 if fondu else RISEN, place=(stand.toe[0] - 0.03, stand.toe[1] - 0.01),
          left=on(*stand.toe, rise=0.0 if fondu else pointe(d)))  # fmt: skip
    if "developpe" in how:
        d.key(0.42 * seconds, right=off(0.12, -0.96, 0.2, reach=0.55, knee=1.35), arms=("second", "first"))
    angle = float(random.uniform(0.35, 1.2))
    d.key(seconds, right=off(-float(np.cos(angle)), float(np.sin(angle)), 0.06), trunk=(0, 0.18, 0), gaze=(-0.3, 0.15),
          arms=("second", str(random.choice(["high", "open_high"]))))  # fmt: skip
    mark(d, "ExtSecondRight", "ExtSecondLeft", 0, seconds)
    held = seconds + float(random.uniform(0.08, 0.5))
    d.hold(held)
    down = held + float(random.uniform(0.4, 0.6))
    d.key(down, place=(0, 0), height=-0.06, yaw=0, trunk=UPRIGHT, gaze=(0, 0), arms=("demi", "demi"),
          left=on(*stand.toe), right=on(-0.12, 0.17))  # fmt: skip
    d.advance(down)


def courus(d: Dance, seconds: float, random: np.random.Generator, how: str, first: bool, last: bool) -> None:
    """Courus: tiny quick steps on pointe, from when they start to when they end.

    ``how``: where to: "side", "forward", "back", "place".
    """
    lead = float(random.uniform(0.35, 0.5))
    gather(d, lead, height=-0.08)
    d.hold()
    rise = 0.18
    start: dict[Feet, tuple[float, float]] = {"left": (0.03, 0.03), "right": (-0.03, 0.1)}
    d.key(rise, place=(0, 0.06), height=RISEN, arms=("first", "first"), left=on(*start["left"], rise=1, lift=0.01),
          right=on(*start["right"], rise=1, lift=0.01))  # fmt: skip
    d.advance(rise)
    way = {"side": (-0.8, 0.0), "forward": (0.0, 0.6), "back": (0.0, -0.6), "place": (0.0, 0.0)}[how]
    vx, vz = (way[0] * float(random.uniform(0.6, 1.1)), way[1] * float(random.uniform(0.6, 1.1)))
    quick = float(random.uniform(0.11, 0.15))
    steps = max(2, round(seconds / quick))
    quick = seconds / steps
    at = dict(start)
    for n in range(steps):
        name: Feet = "right" if n % 2 == 0 else "left"
        begin, end = n * quick, (n + 1) * quick
        d.feet(begin, **{name: on(*at[name], rise=1)})
        ahead = 1.0 if n < steps - 2 else 0.0  # a step reaches as far ahead as the body will be when it carries
        reach = end + ahead * quick / 2
        shift = 0.02 * ahead * (-1) ** (n // 2)  # on the spot they are steps, too
        at[name] = (start[name][0] + vx * reach, start[name][1] + vz * reach + shift)
        d.feet(end, **{name: on(*at[name], rise=1, lift=0.035)})
    d.key(0, place=(0, 0.06), speed=(vx, vz))
    d.key(seconds, place=(vx * seconds, 0.06 + vz * seconds), speed=(vx, vz), height=RISEN)
    arms = str(random.choice(["second", "high", "open_high", "first"]))
    d.key(0.6 * seconds, arms=(arms, arms), gaze=(-0.25 if how == "side" else 0.0, 0.15), trunk=(0, 0.06, 0))
    d.hold(seconds, "yaw", "gaze", "trunk", "arms")
    d.stay(seconds, "left", "right")
    d.mark("Courus", 0, seconds)
    there = (vx * seconds, vz * seconds)
    down = seconds + 0.22
    d.key(down, place=there, height=-0.05, trunk=UPRIGHT, gaze=(0, 0), arms=("demi", "demi"),
          left=on(there[0] + 0.13, there[1] + 0.09, lift=0.02),
          right=on(there[0] - 0.13, there[1] + 0.15, lift=0.02))  # fmt: skip
    d.advance(down, there)


def echappe(d: Dance, seconds: float, random: np.random.Generator, how: str, first: bool, last: bool) -> None:
    """Échappé relevé to second: from fifth position in plié, out to second on pointe, to fifth position.

    ``how``: what the arms do in second: a name of :data:`balletal.synthetic.dance.ARMS`.
    """
    if first:
        gather(d, float(random.uniform(0.35, 0.5)), height=-0.12)
    d.hold()
    out, back = 0.34 * seconds, 0.66 * seconds
    for t in (out, back):
        d.key(t, place=(0, 0.06), height=0.07, arms=(how, how), trunk=UPRIGHT,
              left=on(0.36, 0.06, rise=1, lift=0.015), right=on(-0.36, 0.06, rise=1, lift=0.015))  # fmt: skip
    front, behind = (on(-0.13, 0.15, lift=0.015), on(0.13, 0.09, lift=0.015))
    if random.random() < 0.5:
        front, behind = on(-0.13, 0.09, lift=0.015), on(0.13, 0.15, lift=0.015)
    d.key(seconds, place=(0, 0), height=-0.12, arms=("low", "low"), gaze=(0, 0.05), right=front, left=behind)
    d.mark("EchappeSecond", 0, seconds)
    d.advance(seconds)
    if last:
        d.key(0.3, height=0.0, place=(0, 0), arms=("demi", "demi"), left=behind, right=front)
        d.advance(0.3)


def balance(d: Dance, seconds: float, random: np.random.Generator, how: str, first: bool, last: bool) -> None:
    """Balancé de côté to the right: from the right leg stretched to the side to fondu on it, left foot at the ankle.

    The waltz's second and third beat follow unmarked. ``how``: "low" or "high" arms.
    """
    lead = float(random.uniform(0.3, 0.45))
    wide = float(random.uniform(0.61, 0.67))
    stand = d.under("left", (0.0, 0.0), 0.0)
    d.hold()
    d.key(lead, place=(0.02, 0), height=-0.07, yaw=0, trunk=(0, 0.05, 0), gaze=(-0.25, 0.05), arms=("second", "demi"),
          left=stand, right=on(-wide, 0.08, rise=0.75, lift=0.03))  # fmt: skip
    d.advance(lead)
    d.hold()
    there = (-wide + 0.12, 0.0)
    land = d.under("right", there, 0.0)
    d.key(0.28 * seconds, right=on(land.toe[0], land.toe[1], lift=0.02), left=stand)
    d.key(0.4 * seconds, left=on(*stand.toe, rise=1.0), height=-0.04)
    d.key(0.7 * seconds, place=there)
    raised = ("side", "open_high") if how == "high" else ("side", "first")
    d.key(seconds, place=there, height=-0.11, trunk=(0.02, -0.14, 0), gaze=(-0.35, 0.1), arms=raised, yaw=-0.2,
          left=off(-0.22, -0.95, -0.22, reach=0.78, knee=1.3))  # fmt: skip
    d.stay(seconds, "right")
    mark(d, "BalanceDCRight", "BalanceDCLeft", 0, seconds)
    beat = float(np.clip(seconds * 0.4, 0.25, 0.4))
    behind = on(there[0] + 0.02, -0.02, rise=0.6, lift=0.02)
    d.key(seconds + beat, place=(there[0] + 0.02, 0), height=0.06, left=behind, right=land, arms=("side", raised[1]))
    d.key(seconds + 1.3 * beat, right=off(-0.1, -1, 0.12, reach=0.93))
    d.key(seconds + 2 * beat, place=there, height=-0.06, right=land, left=on(there[0] + 0.16, 0.05), yaw=0,
          trunk=UPRIGHT, arms=("demi", "demi"))  # fmt: skip
    d.advance(seconds + 2 * beat, there)
