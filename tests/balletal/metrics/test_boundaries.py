import pytest

from balletal.metrics.boundaries import boundary_errors
from balletal.segments import segment_table


def test_medians_are_over_matched_pairs_alone():
    truth = segment_table("u", [0.0, 10.0, 20.0, 30.0], [2.0, 12.0, 22.0, 32.0], ["A", "A", "A", "B"])
    found = segment_table(
        "u", [0.1, 9.7, 19.5, 30.0, 21.9], [2.0, 12.2, 21.9, 32.0, 29.0], "A", score=[0.9, 0.8, 0.7, 0.6, 0.5]
    )
    got = boundary_errors(truth, found)
    assert (got["matched"], got["segments"], got["tiou"]) == (3, 4, 0.5)
    assert got["start_median_s"] == pytest.approx(0.3)
    assert got["end_median_s"] == pytest.approx(0.1)


def test_nothing_matched():
    truth = segment_table("u", [0.0], [2.0], "A")
    got = boundary_errors(truth, segment_table(score=[]))
    assert (got["matched"], got["start_median_s"], got["end_median_s"]) == (0, None, None)
