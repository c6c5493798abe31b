"""Frame labels, accuracy, segmental F1 and edit score against plain loops and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balletal.errors import InputError
from balletal.labels import LabelSet
from balletal.metrics.frames import edit_score, f1_overlap, frame_accuracy, frame_labels
from balletal.segments import segment_table

LABELS = LabelSet("test", ("A", "B", "C"))


def runs(frames):
    found = []
    for i, label in enumerate(frames):
        if i and label == frames[i - 1]:
            found[-1][2] = i + 1
        else:
            found.append([label, i, i + 1])
    return [run for run in found if run[0] != -1]


def reference_counts(prediction, truth, overlap):
    """(right, wrong, missed) of one video."""
    p, t = runs(prediction), runs(truth)
    hits = [False] * len(t)
    right = 0
    for label, start, stop in p:
        ious = [
            (min(stop, e) - max(start, s)) / (max(stop, e) - min(start, s)) if label == other else 0.0
            for other, s, e in t
        ]
        best = max(range(len(t)), key=lambda i: ious[i], default=None)
        if best is not None and ious[best] >= overlap and not hits[best]:
            hits[best], right = True, right + 1
    return right, len(p) - right, len(t) - sum(hits)


def reference_edit(prediction, truth):
    p, t = [run[0] for run in runs(prediction)], [run[0] for run in runs(truth)]
    table = {(i, 0): i for i in range(len(p) + 1)} | {(0, j): j for j in range(len(t) + 1)}
    for i in range(1, len(p) + 1):
        for j in range(1, len(t) + 1):
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (p[i - 1] != t[j - 1]))
    return 1 - table[len(p), len(t)] / max(len(p), len(t)) if p or t else 1.0


frames = st.lists(st.integers(-1, 2), min_size=30, max_size=30)


@settings(deadline=None)
@given(st.lists(st.tuples(frames, frames), min_size=1, max_size=4))
def test_f1_and_edit_equal_the_plain_loops(videos):
    predictions, truths = ([np.array(v) for v in column] for column in zip(*videos, strict=True))
    got = f1_overlap(predictions, truths)
    for name, overlap in (("10", 0.1), ("25", 0.25), ("50", 0.5)):
        right, wrong, missed = np.sum([reference_counts(p, t, overlap) for p, t in videos], axis=0)
        precision = right / (right + wrong) if right + wrong else 0.0
        recall = right / (right + missed) if right + missed else 0.0
        expected = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        assert got[name] == pytest.approx(expected, abs=1e-12)
    for p, t in videos:
        assert edit_score(np.array(p), np.array(t)) == pytest.approx(reference_edit(p, t))


def test_a_frame_belongs_to_the_segment_that_holds_its_middle():
    got = frame_labels(segment_table("u", [0.0, 0.5], [0.29, 9.0], ["A", "B"]), LABELS, 1.0, fps=10)
    assert got.tolist() == [0, 0, 0, -1, -1, 1, 1, 1, 1, 1]


def test_the_shortest_segment_wins_or_the_best_score():
    table = segment_table("u", [0.2, 0.0], [0.4, 1.0], ["A", "B"])
    assert frame_labels(table, LABELS, 0.5, fps=10).tolist() == [1, 1, 0, 0, 1]
    scored = table.assign(score=[0.1, 0.9])
    assert frame_labels(scored, LABELS, 0.5, fps=10).tolist() == [1, 1, 1, 1, 1]


def test_what_is_empty_or_backwards_or_outside_labels_no_frame():
    table = segment_table("u", [0.5, 0.8, -3.0, 7.0], [0.5, 0.2, -1.0, 9.0], "A")
    assert set(frame_labels(table, LABELS, 1.0)) == {-1}
    assert len(frame_labels(table, LABELS, 0.0)) == 0


def test_accuracy_with_and_without_background():
    truth, prediction = np.array([-1, -1, 0, 1]), np.array([-1, 2, 0, -1])
    assert frame_accuracy(prediction, truth) == {"all": 0.5, "foreground": 0.5}
    assert frame_accuracy(truth[:2], truth[:2]) == {"all": 1.0, "foreground": None}
    with pytest.raises(InputError, match="4 frames"):
        frame_accuracy(prediction[:3], truth)


def test_nothing_in_common_scores_nothing():
    step, silence = np.array([0, 0, -1, 1]), np.full(4, -1)
    assert f1_overlap([silence], [step]) == f1_overlap([step], [silence]) == {"10": 0.0, "25": 0.0, "50": 0.0}
    assert edit_score(silence, step) == edit_score(step, silence) == 0.0
    assert f1_overlap([silence], [silence])["50"] == 0.0
    assert edit_score(silence, silence) == 1.0


@pytest.mark.parametrize(
    ("label", "duration", "message"), [("Z", 1.0, "Z"), ("A", float("nan"), "duration"), ("A", -1.0, "duration")]
)
def test_bad_input_is_named(label, duration, message):
    with pytest.raises(InputError, match=message):
        frame_labels(segment_table("u", [0.0], [1.0], label), LABELS, duration)
