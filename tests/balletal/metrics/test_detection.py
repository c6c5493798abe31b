"""mAP and AR@AN against plain loops written from the description of the protocols, and by hand."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balletal.errors import InputError
from balletal.metrics import detection
from balletal.metrics.detection import evaluate_detections, match_detections
from balletal.segments import segment_table
from tests.balletal.metrics.tables import iou, random_tables


def by_score(rows):
    return sorted(rows, key=lambda row: -row["score"])  # sorted is stable


def reference_ap(truth, found, threshold):
    """AP of one class: rows are dicts."""
    free = [True] * len(truth)
    hits = []
    for d in by_score(found):
        rivals = [
            (iou((d["start"], d["end"]), (g["start"], g["end"])), i)
            for i, g in enumerate(truth)
            if g["video_id"] == d["video_id"]
        ]
        hit = False
        for value, i in sorted(rivals, key=lambda pair: (-pair[0], pair[1])):
            if value < threshold:
                break
            if free[i]:
                free[i], hit = False, True
                break
        hits.append(hit)
    points, right = [(0.0, 0.0)], 0
    for n, hit in enumerate(hits, 1):
        right += hit
        points.append((right / len(truth), right / n))
    area = 0.0
    for k in range(1, len(points)):
        area += (points[k][0] - points[k - 1][0]) * max(precision for _, precision in points[k:])
    return area


def reference_recall(truth, found, thresholds):
    """AR at AN = 1..100 and the area under it in percent."""
    videos = list(dict.fromkeys(g["video_id"] for g in truth))
    if not found:
        return [0.0] * 100, 0.0
    ratio = 100 * float(len(videos)) / len(found)
    lists = {}
    for video in videos:
        mine = by_score([d for d in found if d["video_id"] == video])
        lists[video] = mine[: min(int(len(mine) * ratio), len(mine))]
    total = sum(len(mine) for mine in lists.values())
    if total == 0:
        return [0.0] * 100, 0.0
    curve, an = [], []
    for step in range(1, 101):
        fraction = step / 100.0 * (100 * float(len(videos)) / total)
        recalls = []
        for threshold in thresholds:
            right = 0
            for g in truth:
                mine = lists[g["video_id"]]
                shown = mine[: min(int(len(mine) * fraction), len(mine))]
                right += any(iou((d["start"], d["end"]), (g["start"], g["end"])) >= threshold for d in shown)
            recalls.append(right / len(truth))
        curve.append(sum(recalls) / len(recalls))
        an.append(fraction * (total / len(videos)))
    area = sum((curve[i] + curve[i + 1]) / 2 * (an[i + 1] - an[i]) for i in range(99))
    return curve, 100 * area / an[-1]


def assert_as_reference(truth, found, thresholds):
    result = evaluate_detections(truth, found, thresholds)
    g, d = truth.to_dict("records"), found.to_dict("records")
    labels = sorted({row["label"] for row in g})
    assert list(result["ap_by_class"]) == labels
    for label in labels:
        mine = [row for row in g if row["label"] == label], [row for row in d if row["label"] == label]
        expected = [reference_ap(*mine, threshold) for threshold in thresholds]
        np.testing.assert_allclose(result["ap_by_class"][label], expected, atol=1e-9)
    np.testing.assert_allclose(result["map"], np.mean(list(result["ap_by_class"].values()), axis=0), atol=1e-12)
    assert result["average_map"] == pytest.approx(np.mean(result["map"]))
    curve, auc = reference_recall(g, d, thresholds)
    for n in (1, 5, 10, 100):
        assert result["ar"][str(n)] == pytest.approx(curve[n - 1], abs=1e-9)
    assert result["auc"] == pytest.approx(auc, abs=1e-9)
    json.dumps(result, allow_nan=False)


# Coarse values, so that ties of score and of tIoU, equal segments and empty ones are common.
times = st.integers(0, 12).map(lambda n: n / 4)
videos, labels = st.sampled_from("uvw"), st.sampled_from("AB")
truth_rows = st.lists(st.tuples(videos, times, st.integers(0, 8), labels), min_size=1, max_size=14)
found_rows = st.lists(
    st.tuples(st.sampled_from("uvwx"), times, st.integers(0, 8), labels, st.integers(0, 5)), max_size=40
)


@settings(max_examples=150, deadline=None)
@given(
    truth_rows,
    found_rows,
    st.sampled_from([(0.3, 0.4, 0.5, 0.6, 0.7), (0.5,), (0.1, 1.0)]),
    st.sampled_from([3, 10**6]),
)
def test_equals_the_plain_loop(truth, found, thresholds, pairs_at_once):
    seen = {row[3] for row in truth}
    found = [row for row in found if row[3] in seen]
    g = segment_table(
        [v for v, *_ in truth], [s for _, s, *_ in truth], [s + n / 4 for _, s, n, _ in truth], [r[3] for r in truth]
    )
    d = segment_table(
        [r[0] for r in found],
        [r[1] for r in found],
        [r[1] + r[2] / 4 for r in found],
        [r[3] for r in found],
        score=[r[4] / 5 for r in found],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detection, "_PAIRS_AT_ONCE", pairs_at_once)
        assert_as_reference(g, d, thresholds)


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_plain_loop_on_dense_tables(seed):
    assert_as_reference(*random_tables(6, 12, 25, 3, seed), (0.3, 0.5, 0.7))


def test_more_detections_than_recall_looks_at():
    """Lists are cut to a share that counts the detections of all videos, those without ground truth too."""
    truth, found = random_tables(3, 4, 150, 1, 0)
    found.loc[found.index % 5 == 0, "video_id"] = "elsewhere"
    assert_as_reference(truth, found, (0.2, 0.4))


def test_a_perfect_result():
    truth = segment_table(["u", "v"], [0.0, 3.0], [1.0, 5.0], ["A", "B"])
    result = evaluate_detections(truth, truth.assign(score=[0.4, 0.9]))
    assert result["map"] == [1.0] * 5
    assert result["ar"] == {"1": 1.0, "5": 1.0, "10": 1.0, "100": 1.0}
    assert result["auc"] == pytest.approx(99.0, abs=1e-9)


def test_a_detection_falls_to_the_second_best_segment():
    truth = segment_table("u", [0.0, 0.2], [1.0, 1.2], "A")
    found = segment_table("u", [0.0, 0.0], [1.0, 1.0], "A", score=[0.9, 0.8])
    assert match_detections(truth, found, np.array([0.5])).tolist() == [[0, 1]]
    assert match_detections(truth, found, np.array([0.5, 0.9])).tolist() == [[0, 1], [0, -1]]


def test_of_equal_overlaps_the_first_in_the_table_is_taken():
    truth = segment_table("u", [0.0, 1.0], [1.0, 2.0], "A")
    found = segment_table("u", [0.5, 0.0], [1.5, 1.0], "A", score=[0.9, 0.8])
    assert match_detections(truth, found, np.array([0.3])).tolist() == [[0, -1]]


def test_of_equal_scores_the_first_in_the_table_wins():
    truth = segment_table("u", [0.0], [1.0], "A")
    found = segment_table(["u", "u"], [0.0, 0.1], [0.9, 1.0], "A", score=[0.5, 0.5])
    assert match_detections(truth, found, np.array([0.5])).tolist() == [[0, -1]]


def test_duplicate_and_empty_ground_truth_count_as_positives():
    truth = segment_table("u", [0.0, 0.0, 5.0], [1.0, 1.0, 5.0], "A")
    found = segment_table("u", [0.0], [1.0], "A", score=[0.9])
    assert evaluate_detections(truth, found)["ap_by_class"]["A"] == pytest.approx([1 / 3] * 5)


def test_only_ground_truth_is_restricted_to_a_subset():
    truth = segment_table(["u", "v"], [0.0, 0.0], [1.0, 1.0], ["A", "B"])
    found = segment_table(["v", "u", "u"], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], ["A", "A", "B"], score=[0.9, 0.8, 0.1])
    result = evaluate_detections(truth, found, video_ids=["u"])
    # The detection in v ranks first and is a false positive; B has no ground truth in the subset, yet is known.
    assert result["ap_by_class"] == {"A": [0.5] * 5}
    assert result["without_ground_truth"] == {"B": 1}
    assert (result["videos"], result["segments"], result["detections"]) == (1, 1, 3)


def test_no_detections():
    truth = segment_table("u", [0.0], [1.0], "A")
    result = evaluate_detections(truth, segment_table(score=[]))
    assert result["average_map"] == result["auc"] == 0.0
    assert result["ap_by_class"] == {"A": [0.0] * 5}
    assert set(result["ar"].values()) == {0.0}


TRUTH = segment_table("u", [0.0], [1.0], "A")
FOUND = segment_table("u", [0.0], [1.0], "A", score=[0.5])


@pytest.mark.parametrize(
    ("truth", "found", "tiou", "message"),
    [
        (TRUTH, FOUND.assign(label="Pirouete"), [0.5], "Pirouete"),
        (TRUTH, FOUND.assign(score=math.nan), [0.5], "video u: expected a finite score"),
        (TRUTH, FOUND.assign(end=math.inf), [0.5], "finite end"),
        (TRUTH.assign(start=math.nan), FOUND, [0.5], "ground truth, video u"),
        (TRUTH, FOUND.drop(columns="score"), [0.5], "no score"),
        (segment_table(), segment_table(score=[]), [0.5], "at least one segment"),
        (TRUTH, FOUND, [], "thresholds"),
        (TRUTH, FOUND, [0.0], "thresholds"),
        (TRUTH, FOUND, [1.1], "thresholds"),
    ],
)
def test_bad_input_is_named(truth, found, tiou, message):
    with pytest.raises(InputError, match=message):
        evaluate_detections(truth, found, tiou)
