import pytest

from balletal.errors import InputError
from balletal.labels import LabelSet
from balletal.metrics.detection import evaluate_detections
from balletal.metrics.oracle import oracle_instances, oracle_runs
from balletal.segments import segment_table

LABELS = LabelSet("test", ("A", "B"))
# Two pirouettes that abut, a step between the middles of two cells, one that ends in a cell half outside the video.
TRUTH = segment_table("u", [0.1, 1.1, 3.6, 6.4], [1.1, 2.0, 3.9, 7.6], ["A", "A", "A", "B"])


def rows(table):
    return [(r.start, r.end, r.label) for r in table.itertuples()]


def test_frame_wise_labels_merge_neighbours():
    assert rows(oracle_runs(TRUTH, LABELS, {"u": 7.6}, 1.0)) == [(0.0, 2.0, "A"), (6.0, 8.0, "B")]


def test_instances_stay_apart_and_the_shortest_are_lost():
    assert rows(oracle_instances(TRUTH, 1.0)) == [(0.0, 1.0, "A"), (1.0, 2.0, "A"), (6.0, 8.0, "B")]


def test_a_fine_grid_loses_nothing():
    assert evaluate_detections(TRUTH, oracle_instances(TRUTH, 0.1))["average_map"] == 1.0
    # The two that abut are one run, however fine the grid.
    assert evaluate_detections(TRUTH, oracle_runs(TRUTH, LABELS, {"u": 7.6}, 0.1))["ap_by_class"]["A"][-1] < 0.7


def test_nothing_to_discretise():
    empty = segment_table()
    for found in (oracle_runs(empty, LABELS, {}, 1.0), oracle_instances(empty, 1.0)):
        assert len(found) == 0
        assert "score" in found


def test_bad_input_is_named():
    with pytest.raises(InputError, match="grid step"):
        oracle_instances(TRUTH, 0.0)
    with pytest.raises(InputError, match="video u: expected a duration"):
        oracle_runs(TRUTH, LABELS, {}, 1.0)
