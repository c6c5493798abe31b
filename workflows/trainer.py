"""Runs of Ray Train that outlive the loss of a node, whenever it is lost."""

from collections.abc import Callable

import ray
from ray import PlacementGroupID
from ray.exceptions import RayActorError
from ray.train import ControllerError, Result
from ray.train.torch import TorchTrainer
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from workflows.console import say

_TRIES = 4


def fit_again(trainer: Callable[[], TorchTrainer]) -> Result:
    """What ``trainer().fit()`` gives; once more, with another one, where a worker was lost.

    Ray Train itself tries again where a worker dies as it works (``FailureConfig``). One that dies as its controller
    sets it up or has it begin ends the run, as an error of the controller. A run with checkpoints goes on from them.

    Raises:
        TrainingFailedError: as Ray's ``fit`` does.
    """
    for _ in range(_TRIES - 1):
        before = _placement_groups()
        try:
            return trainer().fit()
        except ControllerError as error:
            if not isinstance(error.controller_failure, RayActorError):
                raise
            say("a worker was lost as it was set up; trying again")
            for group in _placement_groups() - before:
                remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))
    return trainer().fit()


def _placement_groups() -> set[str]:
    """Ids of what this job holds of the cluster. Ray Train leaves its group behind where its controller fails."""
    job = ray.get_runtime_context().get_job_id()  # an id ends with that of its job
    return {group for group, about in placement_group_table().items() if group.endswith(job)}
