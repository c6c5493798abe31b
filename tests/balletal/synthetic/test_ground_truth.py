"""Segments start and end at what the AnnChor annotation guide names, measured on the joints alone.

Times are compared within a frame. Two frames are allowed where the event is the beginning or the end of a smooth
movement and therefore has no moment of its own: a foot that leaves the floor gently is 1 cm away from it only later, a
leg that comes to rest in the air is within 1 cm of its height a little earlier, and so for a heel.
"""

from typing import Any

import numpy as np
import pytest

from balletal.synthetic.repertoire import STEPS
from tests.balletal.synthetic.steps import FRAME, MIRRORED, Seen, alone, every

SMOOTH = 2 * FRAME + 0.005  # half a moment of the grid more


def within(annotated: float, tolerance: float = FRAME) -> Any:
    return pytest.approx(annotated, abs=tolerance)


def ahead(seen: Seen, name: str, time: float) -> float:
    """How far a joint is in front of the hips' middle, as they face; metres."""
    k = seen.at(time)
    x, _, z = seen[name][k] - seen["hips"][k]
    return float(x * np.sin(seen.yaw[k]) + z * np.cos(seen.yaw[k]))


def carried(seen: Seen, side: str, time: float) -> bool:
    """Whether the weight is over a foot: the hips' middle within 12 cm of its ankle or tip, and the tip rests."""
    k = seen.at(time)
    off = [np.linalg.norm((seen["hips"][k] - seen[f"{side}_{part}"][k])[[0, 2]]) for part in ("ankle", "toe")]
    return bool(min(off) < 0.12 and seen.down(side)[k])


@pytest.mark.parametrize(("name", "supporting", "working"), [
    ("ExtDerriere", "right", "left"), ("ExtensionSecond", "left", "right"),
])  # fmt: skip
def test_extensions_rise_from_the_floor_to_their_height(name: str, supporting: str, working: str) -> None:
    """From when the working leg starts lifting to when it reaches its highest point."""
    for seen in every(name):
        ankle = seen[f"{working}_ankle"]
        height = ankle[:, 1]
        high = seen.t[np.argmax(height > height.max() - 0.01)]
        assert seen.leaves(working, high) == within(seen.start, SMOOTH)
        assert high == within(seen.end, SMOOTH)
        assert seen.slid(f"{supporting}_toe", seen.start, seen.end) < 0.003
        assert carried(seen, supporting, seen.end)
        assert height.max() > 0.9 * seen["hips"][seen.at(seen.end), 1]
        if name == "ExtDerriere":
            assert ahead(seen, f"{working}_ankle", seen.end) < -0.4
            assert abs(seen.yaw[seen.at(seen.end)]) > 0.8, "not croisé, seen from the side"
        else:
            assert ankle[seen.at(seen.end), 0] < seen["hips"][seen.at(seen.end), 0] - 0.25
            assert abs(seen.yaw[seen.at(seen.end)]) < 0.1


def test_courus_from_rising_to_coming_down() -> None:
    """On pointe from start to end, with steps all the while."""
    for seen in every("Courus"):
        foot = seen.motion.body.foot
        low = np.minimum(seen["left_ankle"][:, 1], seen["right_ankle"][:, 1])
        both = np.maximum(seen["left_toe"][:, 1], seen["right_toe"][:, 1]) < 0.01
        pointe = np.flatnonzero((low > 0.9 * foot) & both)
        assert seen.t[pointe[0]] == within(seen.start)
        assert seen.t[pointe[-1]] == within(seen.end, SMOOTH)
        a, b = seen.at(seen.start), seen.at(seen.end)
        assert low[a : b + 1].min() > 0.9 * foot
        lifted = [seen[f"{side}_toe"][a : b + 1, 1] > 0.01 for side in ("left", "right")]
        assert not np.any(lifted[0] & lifted[1])
        steps = sum(int(np.sum(np.diff(foot.astype(int)) > 0)) for foot in lifted)
        assert steps == pytest.approx((seen.end - seen.start) / 0.13, rel=0.25, abs=1)


def test_echappe_opens_from_fifth_and_closes_to_fifth() -> None:
    for seen in every("EchappeSecond"):
        a, b, middle = seen.at(seen.start), seen.at(seen.end), seen.at((seen.start + seen.end) / 2)
        apart = np.abs(seen["left_ankle"][:, 0] - seen["right_ankle"][:, 0])
        assert max(apart[a], apart[b]) < 0.08
        assert apart[middle] > 0.6
        assert min(seen[f"{side}_ankle"][middle, 1] for side in ("left", "right")) > 0.9 * seen.motion.body.foot
        for side in ("left", "right"):
            assert seen.leaves(side, seen.start + 0.2) == within(seen.start, SMOOTH)
            closed = np.linalg.norm(seen[f"{side}_toe"] - seen[f"{side}_toe"][b], axis=1) < 0.01
            assert seen.t[middle + np.argmax(closed[middle:])] == within(seen.end, SMOOTH)
        assert seen.lowest(seen.start - 0.2, seen.t[middle]) == within(seen.start)
        assert seen.lowest(seen.t[middle], seen.end + 0.2) == within(seen.end)
        assert np.ptp(seen["hips"][a : b + 1, 0]) < 0.02, "stays in the middle"


@pytest.mark.parametrize("name", ["CabrioleDevant", "CabrioleDerriere", "GrandJete", "SissonneF", "TourEnLair"])
def test_flights_are_ballistic(name: str) -> None:
    """While no foot is on the floor the hips fall as everything does, and cross the floor at a constant speed."""
    for seen in every(name):
        start, end = seen.flight()
        part = slice(seen.at(start), seen.at(end) + 1)
        hips, t = seen["hips"][part], seen.t[part]
        fall = np.polyfit(t - start, hips[:, 1], 2)
        assert -2 * fall[0] == pytest.approx(9.81, rel=0.01)
        assert np.abs(np.polyval(fall, t - start) - hips[:, 1]).max() < 0.002
        for axis in (0, 2):
            line = np.polyfit(t - start, hips[:, axis], 1)
            assert np.abs(np.polyval(line, t - start) - hips[:, axis]).max() < 0.002
        assert seen.start < start < end < seen.end
        assert end - start > 0.3 * (seen.end - seen.start)


@pytest.mark.parametrize(("name", "lands"), [
    ("CabrioleDevant", "left"), ("CabrioleDerriere", "left"), ("GrandJete", "right"),
])  # fmt: skip
def test_jumps_from_the_last_weight_to_the_flat_landing(name: str, lands: str) -> None:
    """From the supporting (left) heel's lifting before take-off to the flat foot under a bent leg after landing.

    A grand jeté starts with the transfer of weight: the left foot has just been put down, the right one is off.
    """
    for seen in every(name):
        takeoff, landing = seen.flight()
        assert seen.rises("left", takeoff) == within(seen.start, SMOOTH)
        assert seen.settles(lands, landing) == within(seen.end)
        assert carried(seen, "left", seen.start)
        assert carried(seen, lands, seen.end)
        b = seen.at(seen.end)
        assert seen.knee(lands)[b] < 140
        assert seen["right_toe"][seen.at(seen.start + FRAME), 1] > 0.005 or not seen.down("right")[seen.at(seen.start)]
        if name == "GrandJete":
            assert not seen.down("left")[seen.at(seen.start) - 3], "the weight has only just arrived"
            apart = np.linalg.norm(seen["left_ankle"] - seen["right_ankle"], axis=1)
            assert apart.max() > 1.8 * seen.motion.body.leg
            assert ahead(seen, "left_ankle", seen.end) < -0.5
        assert seen["hips"][b, 0] < seen["hips"][seen.at(seen.start), 0] - 0.4, "moves to her right"


@pytest.mark.parametrize(("name", "sign"), [("CabrioleDevant", 1), ("CabrioleDerriere", -1)])
def test_cabrioles_beat_in_front_or_behind(name: str, sign: int) -> None:
    """The ankles meet in the air, in front of the hips or behind them; at 25 frames a second it can be seen."""
    for seen in every(name):
        takeoff, landing = seen.flight()
        part = slice(seen.at(takeoff), seen.at(landing))
        apart = np.linalg.norm(seen["left_ankle"] - seen["right_ankle"], axis=1)[part]
        beat = seen.t[part][np.argmin(apart)]
        assert apart.min() < 0.1 < 0.5 < apart[np.argmin(apart) :].max()
        assert np.sum(apart < 0.35) / 100 >= 0.04
        assert all(sign * ahead(seen, f"{side}_ankle", beat) > 0.3 for side in ("left", "right"))
        assert sign * ahead(seen, "right_ankle", seen.end) > 0.5, "lands with one leg there"


def test_sissonne_from_plie_to_plie() -> None:
    """From fifth position in demi-plié to fifth in demi-plié: off two feet, onto the right one; away from the left."""
    for seen in every("SissonneF"):
        takeoff, landing = seen.flight()
        a, b = seen.at(seen.start), seen.at(seen.end)
        assert seen.lowest(seen.start - 0.3, takeoff) == within(seen.start)
        assert seen.lowest(landing, seen.end + 0.2) == within(seen.end)
        apart = np.linalg.norm(seen["left_ankle"] - seen["right_ankle"], axis=1)
        assert max(apart[a], apart[b]) < 0.12
        assert apart.max() > 1.0
        down = {side: seen.down(side) for side in ("left", "right")}
        assert all(side[a] and side[b] for side in down.values())
        assert max(seen.knee(side)[k] for side in ("left", "right") for k in (a, b)) < 135
        one = slice(seen.at(landing) + 2, seen.at(landing) + 6)
        assert down["right"][one].all()
        assert not down["left"][one].any()
        closes = seen.t[seen.at(landing) + np.argmax(down["left"][seen.at(landing) :])]
        assert closes == within(seen.end)
        assert seen["hips"][b, 0] < seen["hips"][a, 0] - 0.3, "moves to her right"
        assert seen["left_ankle"][seen.at((takeoff + landing) / 2), 0] > seen["hips"][seen.at(takeoff), 0] + 0.2


def test_tour_from_deepest_plie_to_bent_landing() -> None:
    for seen in every("TourEnLair"):
        takeoff, landing = seen.flight()
        a, b = seen.at(seen.start), seen.at(seen.end)
        assert seen.lowest(seen.start - 0.3, takeoff) == within(seen.start)
        for side in ("left", "right"):
            assert seen.settles(side, landing) == within(seen.end)
            assert seen.down(side)[b]
            assert seen.knee(side)[b] < 135
        turns = (seen.yaw[b] - seen.yaw[a]) / (2 * np.pi)
        assert turns == pytest.approx(round(turns), abs=0.01)
        assert round(turns) in (1, 2)
        turned = (seen.yaw[seen.at(landing)] - seen.yaw[seen.at(takeoff)]) / (seen.yaw[b] - seen.yaw[a])
        assert turned > 0.8, "turns in the air"


@pytest.mark.parametrize("how", ["retire", "attitude", "second", "fouette", "pique"])
def test_pirouettes_are_rotations_spot_to_spot(how: str) -> None:
    """Every segment is one rotation on the right leg, body and head facing the front at both ends."""
    for seed, seconds in enumerate(STEPS["Pirouette"].seconds):
        seen = alone("Pirouette", how, seed=seed, side=(-1) ** seed, seconds=seconds, count=3)
        assert len(seen.segments) == 3
        for segment in seen.segments:
            a, b = seen.at(segment.start), seen.at(segment.end)
            assert abs(seen.yaw[b] - seen.yaw[a]) == pytest.approx(2 * np.pi, abs=0.1)
            for k in (a, b):
                assert np.cos(seen.gaze[k]) > 0.99
                assert np.cos(seen.yaw[k]) > 0.98
            spot = np.cos(seen.gaze[a : b + 1]) > np.cos(0.5)
            assert 0.5 < spot.mean() < 0.8, "the head stays and whips around"
            assert np.sum(np.diff(spot.astype(int)) != 0) == 2, "one spot, one turn"
            third = (segment.end - segment.start) / 3
            assert seen.slid("right_toe", segment.start + third, segment.end - 0.8 * third) < 0.003
            turning = slice(seen.at(segment.start + third), seen.at(segment.end - 0.8 * third))
            assert seen["left_toe"][turning, 1].min() > 0.15
            assert seen["right_ankle"][turning, 1].min() > 0.75 * seen.motion.body.foot


def test_balance_from_the_stretched_leg_to_fondu_on_it() -> None:
    """From the right leg stretched to the side, weight on the left, to fondu on the right, left foot at its ankle."""
    for seen in every("WaltzStep"):
        a, b = seen.at(seen.start), seen.at(seen.end)
        assert carried(seen, "left", seen.start)
        assert carried(seen, "right", seen.end)
        assert seen.down("right")[a]
        assert seen["right_toe"][a, 0] < seen["left_toe"][a, 0] - 0.5
        assert seen.knee("right")[a] > 145
        crossing = np.abs(seen["hips"][:, 0] - seen["hips"][a, 0]) > 0.01
        assert seen.t[a - 10 + np.argmax(crossing[a - 10 :])] == within(seen.start, SMOOTH), "the weight begins to move"
        assert seen.lowest((seen.start + seen.end) / 2, seen.end + 0.2) == within(seen.end, SMOOTH)
        assert seen.knee("right")[b] < 135
        assert np.linalg.norm(seen["left_ankle"][b] - seen["right_ankle"][b]) < 0.25, "at the ankle"
        assert not seen.down("left")[b] or seen["left_ankle"][b, 1] > seen["right_ankle"][b, 1] + 0.05
        assert seen["hips"][b, 0] < seen["hips"][a, 0] - 0.3, "moves to her right"


@pytest.mark.parametrize("name", list(STEPS))
def test_left_is_the_mirror_image_of_right(name: str) -> None:
    step = STEPS[name]
    for how in dict.fromkeys(how for manners in step.manners.values() for how in manners):
        right, left = (alone(name, how, seed=3, side=side) for side in (1, -1))
        assert np.abs(right.joints - left.joints).max() < 1e-9
        t = np.arange(0, right.motion.seconds, 0.04)
        x = right.motion.joints(t), left.motion.joints(t)
        assert np.abs(x[0] - x[1][:, MIRRORED] * [-1, 1, 1]).max() < 1e-9
        assert [s.label for s in right.segments] == [step.labels[0]]
        assert [s.label for s in left.segments] == [step.labels[-1]]
        assert (right.start, right.end) == (left.start, left.end)
        assert len(step.labels) == 1 or ("Right" in step.labels[0] and "Left" in step.labels[1])
