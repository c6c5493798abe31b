"""A run of Ray Train goes on where a node is lost at a moment that Ray Train itself gives up at."""

from typing import Any
from unittest.mock import Mock

import pytest
from ray.exceptions import ActorUnavailableError
from ray.train import ControllerError
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from workflows.trainer import fit_again


def lost() -> ControllerError:
    return ControllerError(ActorUnavailableError("Socket closed", b"0" * 16))


def fit(*outcomes: Any) -> tuple[Any, int]:
    """What comes of trainers whose runs end so, and how many there were."""
    trainers = Mock(side_effect=[Mock(fit=Mock(side_effect=[outcome])) for outcome in outcomes])
    try:
        return fit_again(trainers), trainers.call_count
    except ControllerError as error:
        return error, trainers.call_count


@pytest.mark.ray
def test_a_worker_that_is_lost_as_it_is_set_up_is_tried_again_with_all_that_there_is(
    ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    others = placement_group([{"CPU": 0.5}])
    left: list[PlacementGroup] = []

    def lose() -> None:
        left.append(placement_group([{"CPU": 0.5}]))
        raise lost()

    trainers = Mock(side_effect=[Mock(fit=lose), Mock(fit=lambda: "result")])
    assert fit_again(trainers) == "result"
    assert "a worker was lost as it was set up; trying again\n" in capsys.readouterr().err
    table = placement_group_table()
    assert table[left[0].id.hex()]["state"] == "REMOVED"
    assert table[others.id.hex()]["state"] != "REMOVED"
    remove_placement_group(others)


@pytest.mark.ray
def test_what_fails_again_and_again_and_what_is_no_loss_is_told(ray_cluster: None) -> None:
    errors = [lost() for _ in range(9)]
    assert fit(*errors) == (errors[3], 4)
    other = ControllerError(ValueError("a mistake"))
    assert fit(other, "never") == (other, 1)
