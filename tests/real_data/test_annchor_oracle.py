"""What a grid of features allows on the published annotations."""

import pytest

from balletal.annotations import read_annotations, usable_segments
from balletal.labels import LabelSet
from balletal.metrics.detection import evaluate_detections
from balletal.metrics.oracle import oracle_instances, oracle_runs

pytestmark = pytest.mark.real_data
COARSE = LabelSet.load("annchor-coarse")

# Seconds of the grid -> average mAP(0.3:0.7) of labels merged into runs and of instances kept apart, on the 816
# published videos. Which cell a boundary falls to is a matter of taste: another rule gives up to 0.03 less or more.
BOUNDS = {
    2.56: (0.029, 0.037),
    1.28: (0.207, 0.301),
    0.64: (0.467, 0.655),
    0.32: (0.686, 0.921),
    0.16: (0.754, 0.996),
    0.08: (0.760, 1.000),
}


@pytest.fixture(scope="module")
def annotations(shared):
    folder = shared / "annchor" / "Annotation Files" / "Processed Model JSON Annotation Files"
    return read_annotations(str(folder / "AnnChor1000-TD.json"), COARSE)


@pytest.mark.parametrize("step_s", BOUNDS)
def test_bounds(annotations, step_s):
    truth, _ = usable_segments(annotations, COARSE)
    runs = oracle_runs(truth, COARSE, annotations.durations, step_s)
    measured = [evaluate_detections(truth, found)["average_map"] for found in (runs, oracle_instances(truth, step_s))]
    assert measured == pytest.approx(BOUNDS[step_s], abs=0.001)
