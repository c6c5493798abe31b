import pytest

from balletal.metrics.detection import evaluate_detections
from balletal.metrics.durations import duration_table
from balletal.segments import segment_table
from tests.balletal.metrics.tables import random_tables


def test_bins_by_hand():
    # Short: two; exactly 0.4 s belongs to the bin from 0.4 on, though 10.4 - 10.0 is a little less.
    truth = segment_table("u", [0.0, 5.0, 10.0, 20.0], [0.3, 5.3, 10.4, 22.0], "A")
    found = segment_table(
        "u",
        [30.0, 0.0, 10.0, 40.0, 20.0],
        [30.3, 0.3, 10.4, 40.5, 21.0],
        "A",
        score=[0.9, 0.8, 0.7, 0.75, 0.6],
    )
    result = duration_table(truth, found, 0.5)
    bins = result["bins"]
    assert [(b["from"], b["to"], b["segments"]) for b in bins] == [
        (None, 0.4, 2),
        (0.4, 0.7, 1),
        (0.7, 1.2, 0),
        (1.2, None, 1),
    ]
    # Short: a false positive of its length before the one that is found. Precision 1/2 at recall 1/2.
    assert (bins[0]["recall"], bins[0]["map"]) == ([0.5], [0.25])
    assert (bins[1]["recall"], bins[1]["map"]) == ([1.0], [0.5])
    assert (bins[2]["recall"], bins[2]["map"], bins[2]["average_map"]) == (None, None, None)
    # Found by a detection that is itself shorter: it counts where its segment does, and nowhere else.
    assert (bins[3]["recall"], bins[3]["average_map"]) == ([1.0], 1.0)


def test_one_bin_is_the_whole_table():
    truth, found = random_tables(5, 8, 20, 3, 0)
    (everything,) = duration_table(truth, found, edges=())["bins"]
    assert everything["map"] == pytest.approx(evaluate_detections(truth, found)["map"])


def test_nothing_detected():
    truth = segment_table("u", [0.0], [0.3], "A")
    first, *_ = duration_table(truth, segment_table(score=[]))["bins"]
    assert (first["recall"], first["average_map"]) == ([0.0] * 5, 0.0)
