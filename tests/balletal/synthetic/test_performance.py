"""What holds of every performance, measured on joints: bodies stay whole, feet stay put, nothing jumps in time."""

from itertools import pairwise

import numpy as np
import pytest

from balletal.labels import LabelSet
from balletal.synthetic.body import JOINT, JOINTS
from balletal.synthetic.performance import Performance, perform
from balletal.synthetic.presets import PRESETS
from balletal.synthetic.repertoire import STEPS
from tests.balletal.synthetic.steps import RATE, Floats

SECONDS = 45.0
SEEDS = range(3)
LIMBS = [
    (f"{side}_{a}", f"{side}_{b}", length)
    for side in ("left", "right")
    for a, b, length in (
        ("shoulder", "elbow", "arm"), ("elbow", "wrist", "forearm"), ("wrist", "hand", "hand"),
        ("hip", "knee", "thigh"), ("knee", "ankle", "shank"), ("ankle", "toe", "foot"),
    )
]  # fmt: skip


@pytest.fixture(scope="module", params=[(name, seed) for name in PRESETS for seed in SEEDS], ids=str)
def danced(request: pytest.FixtureRequest) -> tuple[Performance, list[Floats]]:
    """A performance, and its dancers' joints at 100 moments a second: (T, 22, 3) each."""
    name, seed = request.param
    performance = perform(np.random.default_rng([seed, 17]), SECONDS, PRESETS[name])
    t = np.arange(0, SECONDS, 1 / RATE)
    return performance, [dancer.joints(t) for dancer in performance.dancers]


def test_limbs_keep_their_lengths(danced: tuple[Performance, list[Floats]]) -> None:
    performance, everybody = danced
    for dancer, joints in zip(performance.dancers, everybody, strict=True):
        for a, b, length in LIMBS:
            measured = np.linalg.norm(joints[:, JOINT[a]] - joints[:, JOINT[b]], axis=1)
            assert np.abs(measured - getattr(dancer.body, length)).max() < 1e-3, (a, b)
        for pair in ("hip", "shoulder"):
            apart = np.linalg.norm(joints[:, JOINT[f"left_{pair}"]] - joints[:, JOINT[f"right_{pair}"]], axis=1)
            assert np.abs(apart / 2 - getattr(dancer.body, f"{pair}s")).max() < 0.04  # a raised arm lifts its shoulder


def test_nobody_sinks_into_the_floor(danced: tuple[Performance, list[Floats]]) -> None:
    for joints in danced[1]:
        assert joints[:, :, 1].min() > -0.01


def test_nothing_jumps_in_time(danced: tuple[Performance, list[Floats]]) -> None:
    """Limits lie above what the quickest annotated steps need: feet and hands up to 25 m/s, other joints 20 m/s."""
    for joints in danced[1]:
        speed = np.linalg.norm(np.diff(joints, axis=0), axis=2) * RATE
        tips = [JOINT[f"{side}_{tip}"] for side in ("left", "right") for tip in ("toe", "hand")]
        assert speed[:, tips].max() < 25, [JOINTS[k] for k in tips]
        rest = np.delete(speed, tips, axis=1)
        assert rest.max() < 20
        hips = (joints[:, JOINT["left_hip"]] + joints[:, JOINT["right_hip"]]) / 2
        change = np.linalg.norm(np.diff(hips, 2, axis=0), axis=1) * RATE
        assert change.max() < 2, "the hips' speed changes by less than 2 m/s within 10 ms"


def test_supporting_feet_stay_put(danced: tuple[Performance, list[Floats]]) -> None:
    """In extensions all the while, in pirouettes while she is risen."""
    performance, (joints, *_) = danced
    sides = {"ExtDerriereOnRight": "right", "ExtDerriereOnLeft": "left", "ExtSecondRight": "left",
             "ExtSecondLeft": "right", "PirouetteRight": "right", "PirouetteLeft": "left"}  # fmt: skip
    for segment in performance.segments:
        if segment.label in sides:
            third = (segment.end - segment.start) / 3 if "Pirouette" in segment.label else 0.0
            moments = slice(round((segment.start + third) * RATE), round((segment.end - third) * RATE))
            toe = joints[moments, JOINT[f"{sides[segment.label]}_toe"]]
            assert np.ptp(toe, axis=0).max() < 0.004, segment


def test_segments_are_a_valid_ground_truth(danced: tuple[Performance, list[Floats]]) -> None:
    performance, _ = danced
    labels = LabelSet.load("annchor-fine")
    step_of = {label: step for step in STEPS.values() for label in step.labels}
    segments = performance.segments
    assert len(segments) >= 3
    assert list(segments) == sorted(segments, key=lambda segment: segment.start)
    for segment in segments:
        assert 0 <= segment.start < segment.end <= SECONDS
        assert (round(segment.start, 3), round(segment.end, 3)) == (segment.start, segment.end)
        if segment.label != "Backwards":
            assert segment.label in labels.index
            quantiles = step_of[segment.label].seconds
            assert quantiles[0] - 0.002 <= segment.end - segment.start <= quantiles[-1] + 0.002
            assert performance.dancers[0].body.style in step_of[segment.label].manners
    steps = [segment for segment in segments if segment.label != "Backwards"]
    for before, after in pairwise(steps):
        assert after.start > before.end - 0.001
    for tag in set(segments) - set(steps):
        assert any(tag.start == step.start for step in steps)
        assert any(tag.end == step.end for step in steps)


@pytest.mark.parametrize("name", PRESETS)
def test_backwards_is_danced_facing_the_back(name: str) -> None:
    """At the start of a phrase's first step the hips face the back if and only if it is tagged (within 90 degrees)."""
    tagged = 0
    for seed in range(6):
        performance = perform(np.random.default_rng([seed, 5]), SECONDS, PRESETS[name])
        tags = [segment for segment in performance.segments if segment.label == "Backwards"]
        tagged += len(tags)
        for step in performance.segments:
            if step.label.startswith(("Pirouette", "Echappe", "TourEnLair", "Sissonne", "ExtSecond")):
                joints = performance.dancers[0].joints([step.start])[0]
                front = joints[JOINT["left_hip"], 0] > joints[JOINT["right_hip"], 0]
                assert front != any(tag.start <= step.start and step.end <= tag.end for tag in tags), step
    assert (tagged > 0) == (PRESETS[name].backwards > 0)


@pytest.mark.parametrize("name", PRESETS)
def test_the_dancer_stays_on_the_floor_that_is_danced_on(name: str) -> None:
    preset = PRESETS[name]
    for seed in range(6):
        performance = perform(np.random.default_rng([seed, 6]), SECONDS, preset)
        hips = performance.dancers[0].joints(np.arange(0, SECONDS, 0.1))[:, JOINT["left_hip"]]
        assert np.abs(hips[:, 0]).max() < preset.reach[0] + 1.0
        assert np.abs(hips[:, 2]).max() < preset.reach[1] + 1.0


def test_a_seed_fixes_a_performance() -> None:
    first, second, other = (perform(np.random.default_rng(seed), 30, PRESETS["wild"]) for seed in (4, 4, 5))
    assert first.segments == second.segments
    t = np.arange(0, 30, 0.5)
    assert all(np.array_equal(a.joints(t), b.joints(t)) for a, b in zip(first.dancers, second.dancers, strict=True))
    assert first.segments != other.segments
