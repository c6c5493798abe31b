"""The Serve config file: Serve knows its keys, and our application its arguments."""

import copy
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from tests.cluster.checks import CLUSTER, check_serve

CONFIG = yaml.safe_load((CLUSTER / "serve_config.yaml").read_text())


def test_the_config_has_only_what_serve_and_the_application_know() -> None:
    check_serve(CONFIG)


@pytest.mark.parametrize(
    ("change", "change_args"),
    [
        ({"proxy_locations": "EveryNode"}, {}),
        ({"http_options": {"prot": 8000}}, {}),
        ({}, {"bundle": "x"}),
        ({}, {"replicas": 0}),
        ({}, {"limits": {"max_job": 1}}),
    ],
)
def test_a_mistake_is_found(change: dict[str, Any], change_args: dict[str, Any]) -> None:
    config = copy.deepcopy(CONFIG) | change
    config["applications"][0]["args"] |= change_args
    with pytest.raises((AssertionError, ValidationError)):
        check_serve(config)


def test_an_import_path_that_leads_nowhere_is_found() -> None:
    config = copy.deepcopy(CONFIG)
    config["applications"][0]["import_path"] = "workflows.serve.app:build"
    with pytest.raises(AssertionError, match="app:build"):
        check_serve(config)
