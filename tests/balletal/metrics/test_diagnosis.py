"""Error kinds by hand and against a plain loop; gains against mAP of tables without those errors."""

import json

import numpy as np
import pytest

from balletal.errors import InputError
from balletal.metrics.detection import evaluate_detections, match_detections
from balletal.metrics.diagnosis import OUTCOMES, TIERS, diagnose_detections
from balletal.segments import segment_table
from tests.balletal.metrics.tables import iou, random_tables

TIOU = (0.3, 0.5, 0.7)


def plain_kinds(truth, found, tiou):
    """The kind of each detection, from the definitions."""
    rows = truth.to_dict("records")
    kinds = []
    for d, gt in zip(found.to_dict("records"), match_detections(truth, found, np.array([tiou]))[0], strict=True):
        near = [(iou((d["start"], d["end"]), (g["start"], g["end"])), g["label"] == d["label"])
                for g in rows if g["video_id"] == d["video_id"]]  # fmt: skip
        same = max((value for value, agree in near if agree), default=0.0)
        best = max((value for value, _ in near), default=0.0)
        if gt >= 0:
            kinds.append("true_positive")
        elif same >= tiou:
            kinds.append("double")
        elif best >= tiou:
            kinds.append("wrong_label")
        elif same >= 0.1:
            kinds.append("localization")
        else:
            kinds.append("confusion" if best >= 0.1 else "background")
    return np.array(kinds)


def plain_tiers(truth, found):
    tiers = np.full(len(found), TIERS)
    for label, n in truth["label"].value_counts().items():
        mine = found[found["label"] == label].sort_values("score", ascending=False, kind="stable")
        for rank, i in enumerate(mine.index):
            tiers[i] = min(rank // n, TIERS)
    return tiers


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_plain_loop(seed):
    truth, found = random_tables(4, 6, 60, 3, seed)
    result = diagnose_detections(truth, found, TIOU)
    tiers = plain_tiers(truth, found)
    assert tiers.max() == TIERS > tiers.min()
    for level, tiou in enumerate(TIOU):
        kinds = plain_kinds(truth, found, tiou)
        assert set(kinds) == set(OUTCOMES)
        for kind in OUTCOMES:
            expected = [int(((kinds == kind) & (tiers == tier)).sum()) for tier in range(TIERS)]
            assert result["counts"][kind][level] == expected
        assert result["missed"][level] == len(truth) - int((kinds == "true_positive").sum())
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("seed", range(3))
def test_a_gain_is_the_map_of_the_tables_without_that_error(seed):
    truth, found = random_tables(4, 6, 20, 3, seed)
    result = diagnose_detections(truth, found, TIOU)
    assert result["average_map"] == pytest.approx(evaluate_detections(truth, found, TIOU)["average_map"])
    for kind in OUTCOMES[1:]:
        without = [
            evaluate_detections(truth, found[plain_kinds(truth, found, t) != kind], [t])["average_map"] for t in TIOU
        ]
        assert result["gain"][kind] == pytest.approx(np.mean(without) - result["average_map"], abs=1e-9)
        assert result["gain"][kind] >= 0
    asked = []
    for t in TIOU:
        match = match_detections(truth, found, np.array([t]))[0]
        asked.append(evaluate_detections(truth.iloc[np.unique(match[match >= 0])], found, [t])["average_map"])
    assert result["gain"]["missed"] == pytest.approx(np.mean(asked) - result["average_map"], abs=1e-9)


def test_by_hand():
    truth = segment_table("u", [0.0, 10.0, 20.0], [4.0, 14.0, 24.0], ["A", "B", "A"])
    found = segment_table(
        ["u", "u", "u", "u", "u", "elsewhere"],
        [0.0, 0.0, 10.0, 3.0, 12.0, 20.0],
        [4.0, 3.9, 14.0, 7.0, 17.0, 24.0],
        "A",
        score=[0.9, 0.8, 0.7, 0.6, 0.5, 0.4],
    )
    result = diagnose_detections(truth, found, 0.5)
    counts = {kind: rows[0][:4] for kind, rows in result["counts"].items()}
    # Two segments of A: the best two detections are the first tier.
    assert counts == {
        "true_positive": [1, 0, 0, 0],
        "double": [1, 0, 0, 0],
        "wrong_label": [0, 1, 0, 0],
        "localization": [0, 1, 0, 0],
        "confusion": [0, 0, 1, 0],
        "background": [0, 0, 1, 0],
    }
    assert result["missed"] == [2]
    # AP of A is 0.5, of B 0; asked for the found one alone, B leaves the mean.
    assert (result["average_map"], result["gain"]["missed"]) == (0.25, 0.75)
    assert result["gain"]["double"] == 0.0


def test_nothing_detected():
    truth = segment_table("u", [0.0], [1.0], "A")
    result = diagnose_detections(truth, segment_table(score=[]))
    assert result["missed"] == [1] * 5
    assert result["gain"] == dict.fromkeys(OUTCOMES[1:], 0.0) | {"missed": None}
    assert all(rows == [[0] * TIERS] * 5 for rows in result["counts"].values())


def test_no_ground_truth_is_an_error():
    with pytest.raises(InputError, match="at least one segment"):
        diagnose_detections(segment_table(), segment_table(score=[]))
