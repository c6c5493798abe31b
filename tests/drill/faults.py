"""What goes wrong in a drill: how each is done to a cluster, and what is done about it."""

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

from tests.drill.cluster import Cluster, until
from tests.drill.machines import Machine
from tests.drill.stages import Stage

AWAY_S = 30.0
"""How long the bucket is away."""


class Fault(ABC):
    """Something that happens to a cluster in the midst of a stage."""

    name: str

    @abstractmethod
    def happen(self, cluster: Cluster, stage: Stage) -> str:
        """Do it, and what an operator or a supervisor of processes would do then; what there is to tell of it."""

    resubmitted = False
    """Whether the job is gone with it, and the same command is given again."""


class WorkerKilled(Fault):
    """Every process of a node gets SIGKILL; no other node takes its place."""

    name = "worker killed"

    def happen(self, cluster: Cluster, stage: Stage) -> str:
        cluster.power_off(_victim(cluster, stage))
        return f"{len(cluster.workers)} workers go on"


class NodeAdded(Fault):
    """One more worker, which is to have its share of the work."""

    name = "node added"

    def happen(self, cluster: Cluster, stage: Stage) -> str:
        added, began = cluster.add_worker(), time.monotonic()
        until(lambda: added in cluster.at(stage.works), 180, "work of the added node")
        return f"works {time.monotonic() - began:.0f} s after its start"


class HeadKilled(Fault):
    """The head dies with all that it knows, and another starts in its place. Workers end, and are started again."""

    name, resubmitted = "head killed", True

    def happen(self, cluster: Cluster, stage: Stage) -> str:
        cluster.head.power_off()
        began = time.monotonic()
        cluster.start_head()
        cluster.await_workers(len(cluster.workers))
        return f"a new head with all workers after {time.monotonic() - began:.0f} s"


class StoreAway(Fault):
    """Nothing reaches the bucket for half a minute."""

    name = "store away for 30 s"

    def happen(self, cluster: Cluster, stage: Stage) -> str:
        with cluster.machines.cut_off(cluster.store_machine):
            time.sleep(AWAY_S)
        return "waited for"


def _victim(cluster: Cluster, stage: Stage) -> Machine:
    return cluster.at(stage.works)[-1]


@dataclass(frozen=True)
class Step:
    """A fault, once so much more of a stage is done and a process on some node calls itself like ``sign``."""

    fault: Fault
    more: int = 0
    sign: str = ""


STEPS = {
    "extract": [
        Step(WorkerKilled(), 2, "Backbone"),
        Step(NodeAdded(), 1),
        Step(StoreAway(), 1),
        Step(HeadKilled(), 1),
    ],
    "fit-projection": [Step(WorkerKilled(), 0, "run_train_fn")],
    "train": [Step(WorkerKilled(), 4, "RayTrainWorker"), Step(StoreAway(), 3), Step(HeadKilled(), 3)],
    "score": [Step(StoreAway(), 2), Step(HeadKilled(), 2), Step(WorkerKilled(), 0, "Localize")],
}
"""What happens in a run of each stage, one after another."""
