"""The core of the drill: real nodes, one of which dies at work."""

import tempfile
from pathlib import Path

import pytest

from tests.drill.cluster import BUCKET, Cluster
from tests.drill.drill import drilled
from tests.drill.faults import Step, WorkerKilled
from tests.drill.machines import Machines
from tests.drill.stages import Corpus
from tests.workflows.seaweed import using


@pytest.mark.ray
def test_a_node_that_dies_amid_an_extraction_costs_no_row_and_doubles_none(weed: str) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="drill-") as folder, Machines(Path(folder)) as machines:
        cluster = Cluster(machines, weed)
        with using(cluster.environment):
            cluster.start(2)
            stage = Corpus(BUCKET, Path(folder), 5).stages(f"{BUCKET}/reference")[0]
            stage.alone(f"{BUCKET}/reference/extract")
            reference = stage.read(f"{BUCKET}/reference/extract")
            steps = [Step(WorkerKilled(), 1, "Backbone")]
            (outcome,) = drilled(cluster, stage, steps, reference, f"{BUCKET}/run", Path(folder) / "job.log")
    assert reference.keys.total() >= 5 * 4
    assert (outcome.lost, outcome.doubled, outcome.difference) == (0, 0, 0)
