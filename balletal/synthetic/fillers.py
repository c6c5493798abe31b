"""What happens between steps, unannotated: walking, port de bras, stillness, révérence, and what resembles steps.

None of these may be taken for a step by the AnnChor guide: turns are on two feet, jumps neither split, beat nor turn,
and legs that lift stay low.
"""

import math

import numpy as np

from balletal.synthetic.dance import Dance, Feet, off, on
from balletal.synthetic.steps import FIFTH, RISEN, UPRIGHT, gather, pointe


def nearest_turn(frm: float, to: float) -> float:
    """The angle from one facing to another, in (-pi, pi]."""
    return float(-((frm - to + np.pi) % (2 * np.pi) - np.pi))


def walk(d: Dance, place: tuple[float, float], front: float, *, run: bool = False) -> None:
    """Walk or run to a place of the world (metres) and come to rest there facing ``front`` (radians)."""
    d.side = 1
    target = np.array(d.local(place))
    distance = float(np.hypot(*target))
    turned = nearest_turn(d.front, front)
    count = max(2, math.ceil(distance / (0.7 if run else 0.5)))
    pace = 0.27 if run else 0.42
    heading = float(np.arctan2(target[0], target[1])) if distance > 0.5 else turned
    heading = nearest_turn(0.0, heading)
    if distance > 0.5:  # from the heading turn the short way on to the new front
        turned = heading + nearest_turn(heading, turned)
    d.hold()
    total = count * pace
    d.key(min(pace, 0.4), yaw=heading, gaze=(heading, 0.0), arms=("demi", "demi") if run else ("low", "low"),
          trunk=(0.06 if run else 0.02, 0, 0), height=-0.06 if run else -0.03)  # fmt: skip
    order: tuple[Feet, Feet] = ("right", "left") if target[0] < 0 else ("left", "right")
    for k in range(count):
        # As far ahead of the hips when it lands as behind them when it leaves.
        at, hips = target * (k + 1) / count, target * (k + (0.65 if run else 0.5 if k else 0.4)) / count
        step = d.under(order[k % 2], (at[0], at[1]), heading, lift=0.16 if run else 0.07)
        d.stay(k * pace - (0.3 * pace if run and k else 0), order[k % 2])  # a runner's feet leave early
        d.key((k + 1) * pace, place=(hips[0], hips[1]))
        d.feet((k + 1) * pace, **{order[k % 2]: step})
    d.hold(total - 0.5 * pace, "yaw", "gaze", "height")
    settle = total + 0.4
    there = (float(target[0]), float(target[1]))
    d.key(settle, place=there, yaw=turned, gaze=(turned, 0.02), height=0.0, trunk=UPRIGHT)
    last, other = order[(count - 1) % 2], order[count % 2]
    d.stay(total, other, last)
    d.feet(total + 0.2, **{other: d.under(other, there, turned)})
    d.stay(total + 0.2, last)
    d.feet(settle, **{last: d.under(last, there, turned, lift=0.03)})
    d.advance(settle, there)
    d.front += turned


def stand(d: Dance, seconds: float, random: np.random.Generator) -> None:
    """Stillness that breathes."""
    d.hold()
    t = 0.0
    while t < seconds:
        t = min(seconds, t + float(random.uniform(0.9, 1.6)))
        sway = random.normal(0, 0.012, 3)
        d.key(t, trunk=(0.01 + sway[0], sway[1], sway[2]), gaze=(float(random.normal(0, 0.1)), 0.03))
    d.hold(seconds)
    d.advance(seconds)


def port_de_bras(d: Dance, seconds: float, random: np.random.Generator) -> None:
    """The arms pass through positions; head and trunk follow."""
    d.hold()
    count = max(1, round(seconds / float(random.uniform(0.7, 1.2))))
    for k in range(count):
        pair = random.choice(["low", "first", "second", "high", "demi", "open_high", "ahead"], 2)
        if random.random() < 0.5:
            pair[1] = pair[0]
        bend = random.normal(0, 0.08, 3)
        d.key((k + 1) * seconds / count, arms=(str(pair[0]), str(pair[1])), trunk=tuple(bend),
              gaze=(float(random.normal(0, 0.3)), float(random.uniform(-0.1, 0.25))))  # fmt: skip
    d.hold(seconds)
    d.advance(seconds)


def reverence(d: Dance, random: np.random.Generator) -> None:
    """A curtsey or a bow."""
    down, up = float(random.uniform(0.7, 1.0)), float(random.uniform(1.5, 1.9))
    d.hold()
    woman = d.body.style == "woman"
    d.key(down, place=(-0.02, 0), height=-0.2 if woman else 0.0, trunk=(0.25 if woman else 0.6, 0, 0), gaze=(0, -0.4),
          arms=("second", "second") if woman else ("side", "first"), right=d.under("right", (0, 0), 0.0),
          left=on(0.12, -0.25, rise=0.9, lift=0.02))  # fmt: skip
    d.key(up, place=(0, 0), height=0.0, trunk=UPRIGHT, gaze=(0, 0.05), arms=("low", "low"),
          left=d.under("left", (0, 0), 0.0))  # fmt: skip
    d.stay(up, "right")
    d.advance(up)


def tendu(d: Dance, random: np.random.Generator) -> None:
    """A stretched foot slides out on the floor and back."""
    gather(d, 0.35, height=0.0, arms=("second", "second"))
    d.hold()
    out = float(random.uniform(0.3, 0.5))
    x, z = [(-0.5, 0.1), (-0.12, 0.55), (-0.1, -0.35)][int(random.integers(3))]
    d.key(out, place=(0.05, 0), right=on(x, z, rise=0.8, lift=0.0), arms=("second", "first"))
    d.key(2 * out, place=(0, 0), right=FIFTH["right"], arms=("low", "low"))
    d.stay(2 * out, "left")
    d.advance(2 * out)


def changement(d: Dance, random: np.random.Generator) -> None:
    """A small jump from two feet to two feet: no turn, no beat, no travel."""
    gather(d, 0.4, height=-0.12)
    flying = float(random.uniform(0.26, 0.36))
    push, land = 0.2, 0.2 + flying
    d.hold()
    d.key(push, left=on(0.13, 0.09, rise=1), right=on(-0.13, 0.15, rise=1))
    d.flight(push, land, frm=(0, 0.05), to=(0, 0.03))
    d.key(push + flying / 2, left=off(-0.02, -1, 0.0), right=off(0.02, -1, 0.04))
    d.key(land, left=on(0.13, 0.15, rise=0.9), right=on(-0.13, 0.09, rise=0.9))
    d.key(land + 0.16, height=-0.12, place=(0, 0), left=on(0.13, 0.15), right=on(-0.13, 0.09))
    d.key(land + 0.5, height=0.0)
    d.stay(land + 0.5, "left", "right")
    d.advance(land + 0.5)


def temps_leve(d: Dance, random: np.random.Generator) -> None:
    """A hop on one leg, the other foot at the ankle."""
    lead = 0.4
    d.hold()
    foot = d.under("left", (0, 0), 0.0)
    ankle = off(0.12, -0.95, -0.2, reach=0.78, knee=1.3)
    d.key(lead, place=(0, 0), height=-0.12, left=foot, right=ankle, arms=("demi", "second"), yaw=0, gaze=(0, 0))
    flying = float(random.uniform(0.25, 0.34))
    push, land = lead + 0.2, lead + 0.2 + flying
    d.key(push, left=on(*foot.toe, rise=1), right=ankle)
    d.flight(push, land, frm=(0, 0.03), to=(0, 0.02))
    d.key(push + flying / 2, left=off(0, -1, 0), right=ankle)
    d.key(land, left=on(*foot.toe, rise=0.9))
    d.key(land + 0.16, height=-0.12, place=(0, 0), left=foot, right=ankle)
    d.key(land + 0.55, height=0, right=d.under("right", (0, 0), 0.0), arms=("low", "low"))
    d.stay(land + 0.55, "left")
    d.advance(land + 0.55)


def soutenu(d: Dance, random: np.random.Generator) -> None:
    """A turn on both feet, crossed and high on their toes."""
    gather(d, 0.4, height=-0.08, arms=("second", "first"))
    seconds, rise = float(random.uniform(0.7, 1.0)), pointe(d)
    d.hold()
    left, right = on(0.02, 0.08, rise=rise, lift=0.01), on(-0.02, 0.12, rise=rise, lift=0.01)
    d.key(0.2, place=(0, 0.1), height=RISEN, arms=("high", "high"), left=left, right=right)
    d.key(0.2 + seconds, place=(0, 0.1), height=RISEN, arms=("high", "high"), left=left, right=right)
    d.turn(0.15, 0.2 + seconds, 2 * np.pi, spots=1, first=True, last=True)
    d.advance(0.2 + seconds, turned=2 * np.pi)
    d.key(0.35, place=(0, 0), height=-0.03, yaw=0, gaze=(0, 0.03), arms=("demi", "demi"))
    d.feet(0.35, **FIFTH)
    d.advance(0.35)


def lookalike(d: Dance, random: np.random.Generator) -> None:
    """One of the movements that resemble a step."""
    d.side = 1 if random.random() < 0.5 else -1
    choices = (tendu, changement, temps_leve, soutenu)
    choices[int(random.integers(len(choices)))](d, random)
    d.side = 1
