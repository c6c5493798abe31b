"""Soft-NMS against a plain loop, and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balletal.errors import InputError
from balletal.tal.nms import soft_nms


def reference(segments, scores, method, sigma, iou_threshold, min_score, max_segments):
    """One segment after the other, as the description has it."""
    left = [[i, s, e, p] for i, ((s, e), p) in enumerate(zip(segments, scores, strict=True))]
    picked = []
    while left and len(picked) < max_segments:
        best = max(left, key=lambda item: (item[3], -item[0]))
        left.remove(best)
        picked.append(best)
        kept = []
        for i, s, e, score in left:
            overlap = max(0.0, min(e, best[2]) - max(s, best[1]))
            iou = overlap / ((e - s + 1e-6) + (best[2] - best[1] + 1e-6) - overlap)
            if method == "gaussian":
                lowered = score * math.exp(-(iou**2) / sigma)
            elif iou < iou_threshold:
                lowered = score
            elif method == "hard":
                continue
            else:
                lowered = score * (1 - iou)
            if lowered >= min_score:
                kept.append([i, s, e, lowered])
        left = kept
    return [(item[0], item[3]) for item in picked]


times = st.integers(0, 40).map(lambda n: n / 4)
candidates = st.lists(st.tuples(times, st.integers(0, 12).map(lambda n: n / 4), st.integers(0, 10)), max_size=25)


@settings(deadline=None)
@given(
    candidates,
    st.sampled_from(["gaussian", "linear", "hard"]),
    st.sampled_from([0.1, 0.5, 0.9]),
    st.sampled_from([0.25, 0.5, 1.0]),
    st.sampled_from([0.0, 0.001, 0.3]),
    st.integers(0, 12),
)
def test_equals_the_plain_loop(items, method, sigma, iou_threshold, min_score, max_segments):
    segments = np.array([[s, s + length] for s, length, _ in items]).reshape(-1, 2)
    scores = np.array([p / 10 for *_, p in items])
    options = {"sigma": sigma, "iou_threshold": iou_threshold, "min_score": min_score, "max_segments": max_segments}
    got_segments, got_scores, indices = soft_nms(segments, scores, method=method, **options)
    expected = reference(segments.tolist(), scores.tolist(), method, **options)
    assert indices.tolist() == [i for i, _ in expected]
    np.testing.assert_allclose(got_scores, [p for _, p in expected], atol=1e-12)
    np.testing.assert_array_equal(got_segments, segments[indices])
    assert (np.diff(got_scores) <= 1e-12).all()


@settings(deadline=None)
@given(candidates, st.sampled_from(["gaussian", "linear", "hard"]), st.integers(0, 12))
def test_classes_are_picked_from_together_as_each_alone(items, method, wanted):
    segments = np.array([[s, s + length] for s, length, _ in items]).reshape(-1, 2)
    scores = np.array([p / 10 for *_, p in items])
    labels = np.arange(len(items)) % 3
    _, lowered, indices = soft_nms(segments, scores, labels=labels, method=method)
    assert (np.diff(lowered) <= 1e-12).all()
    for label in range(3):
        mine = np.flatnonzero(labels == label)
        _, alone, picked = soft_nms(segments[mine], scores[mine], method=method)
        assert indices[labels[indices] == label].tolist() == mine[picked].tolist()
        np.testing.assert_array_equal(lowered[labels[indices] == label], alone)
    # Of those that count, the first ones: the others lower scores, and are picked on the way.
    counted = np.arange(len(items)) % 2 == 0
    *_, some = soft_nms(segments, scores, labels=labels, counted=counted, method=method, max_segments=wanted)
    assert some.tolist() == indices[: len(some)].tolist()
    assert counted[some].sum() == min(wanted, counted[indices].sum())


SEGMENTS, SCORES = [[0, 2], [1, 3], [10, 11]], [0.9, 0.8, 0.3]  # IoU of the first two: 1/3


def test_gaussian_lowers_the_overlapping():
    _, scores, indices = soft_nms(SEGMENTS, SCORES, method="gaussian", sigma=0.5)
    assert indices.tolist() == [0, 1, 2]
    np.testing.assert_allclose(scores, [0.9, 0.8 * math.exp(-((1 / 3) ** 2) / 0.5), 0.3], rtol=1e-5)


def test_linear_lowers_only_from_the_threshold_on():
    _, scores, _ = soft_nms(SEGMENTS, SCORES, method="linear", iou_threshold=0.3)
    np.testing.assert_allclose(scores, [0.9, 0.8 * 2 / 3, 0.3], rtol=1e-5)
    _, scores, _ = soft_nms(SEGMENTS, SCORES, method="linear", iou_threshold=0.4)
    np.testing.assert_allclose(scores, SCORES)


def test_hard_drops_also_without_a_least_score():
    _, _, indices = soft_nms(SEGMENTS, SCORES, method="hard", iou_threshold=0.3)
    assert indices.tolist() == [0, 2]


def test_the_first_pick_is_never_dropped():
    _, scores, indices = soft_nms(SEGMENTS, [0.01, 0.02, 0.03], min_score=0.5)
    assert indices.tolist() == [2]
    assert scores.tolist() == [0.03]


def test_nothing_gives_nothing():
    segments, scores, indices = soft_nms(np.empty((0, 2)), [])
    assert segments.shape == (0, 2)
    assert scores.shape == indices.shape == (0,)
    assert len(soft_nms(SEGMENTS, SCORES, max_segments=0)[2]) == 0


@pytest.mark.parametrize(
    ("segments", "scores", "options", "found"),
    [
        (SEGMENTS, [0.1], {}, "shape"),
        (SEGMENTS, [0.1, math.nan, 0.2], {}, "NaN"),
        ([[0, math.inf]], [0.1], {}, "infinity"),
        (SEGMENTS, SCORES, {"method": "softer"}, "softer"),
        (SEGMENTS, SCORES, {"sigma": 0}, "0"),
    ],
)
def test_bad_input_is_named(segments, scores, options, found):
    with pytest.raises(InputError, match=found):
        soft_nms(segments, scores, **options)
