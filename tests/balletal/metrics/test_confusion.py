import numpy as np
import pytest

from balletal.errors import InputError
from balletal.labels import LabelSet
from balletal.metrics import detection
from balletal.metrics.confusion import confusion_matrix
from balletal.segments import segment_table
from tests.balletal.metrics.tables import iou, random_tables

FINE = LabelSet("fine", ("TurnRight", "TurnLeft", "Jump"))


def test_by_hand():
    truth = segment_table(
        "u", [0.0, 10.0, 20.0, 30.0, 40.0], [2.0, 12.0, 22.0, 32.0, 42.0], ["TurnRight"] * 3 + ["TurnLeft", "Jump"]
    )
    found = segment_table(
        "u",
        [0.0, 0.1, 10.0, 30.0, 40.0, 50.0, 60.0],
        [2.0, 2.1, 12.0, 32.0, 42.0, 52.0, 62.0],
        ["TurnLeft", "TurnRight", "TurnRight", "TurnLeft", "TurnLeft", "Jump", "Jump"],
        score=[0.9, 0.8, 0.1, 0.7, 0.6, 0.5, 0.2],
    )
    result = confusion_matrix(truth, found, FINE, min_score=0.3)
    assert result["counts"] == [
        [1, 1, 0, 1],  # right turns: one found, one taken for a left turn, one missed
        [0, 1, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 1, 0],  # in the background: of the two jumps there one scores enough
    ]
    assert result["labels"] == list(FINE.labels)
    # A jump taken for a left turn is no question of sides.
    assert result["sides"] == {"found": 3, "swapped": 1, "rate": 1 / 3}


@pytest.mark.parametrize("pairs_at_once", [7, 10**6])
def test_equals_the_plain_loop(monkeypatch, pairs_at_once):
    monkeypatch.setattr(detection, "_PAIRS_AT_ONCE", pairs_at_once)
    truth, found = random_tables(5, 8, 10, 3, 0)
    found["score"] = found["score"].round(1)  # ties: the first in the table wins
    labels = LabelSet("test", ("c0", "c1", "c2"))
    expected = np.zeros((4, 4), int)
    touching = set()
    for g in truth.to_dict("records"):
        rivals = [
            (-d["score"], i)
            for i, d in enumerate(found.to_dict("records"))
            if d["video_id"] == g["video_id"] and iou((d["start"], d["end"]), (g["start"], g["end"])) >= 0.5
        ]
        touching |= {i for _, i in rivals}
        said = labels.index[found["label"][min(rivals)[1]]] if rivals else 3
        expected[labels.index[g["label"]], said] += 1
    for i, d in enumerate(found.to_dict("records")):
        expected[3, labels.index[d["label"]]] += i not in touching and d["score"] >= 0.5
    result = confusion_matrix(truth, found, labels, min_score=0.5)
    assert result["counts"] == expected.tolist()
    assert expected[:3, 3].any()
    assert expected[3].any()
    assert result["sides"] is None


def test_nothing_detected_or_annotated():
    truth = segment_table("u", [0.0], [2.0], "Jump")
    result = confusion_matrix(truth, segment_table(score=[]), FINE)
    assert result["counts"] == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert result["sides"] == {"found": 0, "swapped": 0, "rate": None}
    assert np.sum(confusion_matrix(segment_table(), segment_table(score=[]), FINE)["counts"]) == 0


def test_an_unknown_label_is_named():
    truth = segment_table("u", [0.0], [2.0], "Plie")
    with pytest.raises(InputError, match="labels of fine, found Plie"):
        confusion_matrix(truth, truth.assign(score=1.0), FINE)
