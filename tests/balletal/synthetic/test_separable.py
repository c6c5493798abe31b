"""A simple classifier on joints tells the classes apart: labels mean what they say, and left is not right.

Run with ``-s`` to see its numbers.
"""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier

from balletal.synthetic.body import JOINT
from balletal.synthetic.performance import Performance, perform
from balletal.synthetic.presets import PRESETS, Preset
from tests.balletal.synthetic.steps import Floats

MOMENTS = 12
SECONDS = 60.0


def features(performance: Performance, start: float, end: float) -> Floats:
    """Joints at evenly spaced moments, from where the hips are at the first and as they face then; flat."""
    joints = performance.dancers[0].joints(np.linspace(start, end, MOMENTS))
    left, right = joints[0, JOINT["left_hip"]], joints[0, JOINT["right_hip"]]
    x, y, z = np.moveaxis(joints - (left + right) / 2 * [1, 0, 1], 2, 0)
    cosine, sine = np.array([1, -1]) * (left - right)[[0, 2]] / np.hypot(*(left - right)[[0, 2]])
    return np.append([x * cosine - z * sine, y, x * sine + z * cosine], end - start)


def examples(preset: Preset, seeds: range) -> tuple[Floats, NDArray[np.str_]]:
    """Features and labels of steps and of stretches between them."""
    x, labels = [], []
    for seed in seeds:
        random = np.random.default_rng([seed, 23])
        performance = perform(random, SECONDS, preset)
        steps = [s for s in performance.segments if s.label != "Backwards"]
        for step, after in zip(steps, (*steps[1:], None), strict=True):
            x.append(features(performance, step.start, step.end))
            labels.append(step.label)
            length = random.uniform(0.4, 1.2)
            if after is not None and after.start - step.end > length:
                start = random.uniform(step.end, after.start - length)
                x.append(features(performance, start, start + length))
                labels.append("background")
    return np.stack(x), np.array(labels)


@pytest.mark.parametrize(("name", "least"), [("easy", 0.97), ("stage", 0.95), ("wild", 0.95)])
def test_a_forest_tells_the_classes_apart(name: str, least: float) -> None:
    """Other seeds and other bodies than it learned from."""
    x, y = examples(PRESETS[name], range(24))
    tested, truth = examples(PRESETS[name], range(100, 116))
    found = ExtraTreesClassifier(100, random_state=0, n_jobs=2).fit(x, y).predict(tested)
    steps = truth != "background"
    confused = Counter((str(a), str(b)) for a, b in zip(truth, found, strict=True) if a != b)
    other = sum(n for (a, b), n in confused.items() if sideless(a) == sideless(b)) / steps.sum()
    right, overall = np.mean(found[steps] == truth[steps]), np.mean(found == truth)
    print(f"\n{name}: {len(y)} to learn from, {steps.sum()} steps and {(~steps).sum()} stretches between tested: "
          f"accuracy on steps {right:.3f}, overall {overall:.3f}, other side {other:.3f}")  # fmt: skip
    print(*(f"  {a} taken for {b}: {n}" for (a, b), n in confused.most_common()), sep="\n")
    assert len(set(truth)) == 20  # every class, and background
    assert right >= least
    assert overall >= least
    assert other <= 0.01


def test_a_forest_tells_back_from_front() -> None:
    """Joints as the hall sees them tell whether a step is tagged Backwards."""
    preset = replace(PRESETS["stage"], backwards=0.5)
    sets = []
    for seeds in (range(16), range(100, 108)):
        x: list[Floats] = []
        backwards = []
        for seed in seeds:
            performance = perform(np.random.default_rng([seed, 29]), SECONDS, preset)
            tags = [s for s in performance.segments if s.label == "Backwards"]
            for step in performance.segments:
                if step not in tags:
                    joints = performance.dancers[0].joints(np.linspace(step.start, step.end, MOMENTS))
                    x.append((joints - joints.mean(axis=(0, 1))).ravel())
                    backwards.append(any(tag.start <= step.start and step.end <= tag.end for tag in tags))
        sets.append((np.stack(x), np.array(backwards)))
    (learned, y), (tested, truth) = sets
    accuracy = np.mean(ExtraTreesClassifier(100, random_state=0, n_jobs=2).fit(learned, y).predict(tested) == truth)
    print(f"\nBackwards: {truth.sum()} of {len(truth)} steps, accuracy {accuracy:.3f}")
    assert accuracy >= 0.95


def sideless(label: str) -> str:
    return label.removesuffix("Right").removesuffix("Left")
