"""The cluster launcher's files, held against the schema that `ray up` holds them against."""

from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster.checks import CLUSTER, Document, check_image

AWS, MACHINES = (yaml.safe_load((CLUSTER / name).read_text()) for name in ("aws.yaml", "machines.yaml"))


def check_launcher(config: Document) -> None:
    """That Ray knows every key, and that nobody submits jobs without the token."""
    validate_config(prepare_config(config))  # makes a copy, with Ray's defaults
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    for start in (one for one in starts if "ray start" in one):
        assert "RAY_AUTH_MODE=token" in start, "no token"
    assert any(path.endswith("/.ray/auth_token") for path in config["file_mounts"]), "the token is nowhere"
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1], "the dashboard is for all"
    if image := config.get("docker", {}).get("image"):
        check_image(image, "docker")
        # Ray's defaults would install a Ray of their own.
        assert config["setup_commands"] == [], "the image has all"
    if config["provider"]["type"] == "local":
        assert config["min_workers"] == config["max_workers"] == len(config["provider"]["worker_ips"])


@pytest.mark.parametrize("config", [AWS, MACHINES], ids=["aws", "machines"])
def test_a_launcher_s_file_holds(config: Document) -> None:
    check_launcher(config)


@pytest.mark.parametrize(
    ("config", "change"),
    [
        (AWS, {"idle_timeout_minute": 5}),
        (AWS, {"head_node_type": "haed"}),
        (AWS, {"docker": AWS["docker"] | {"imgae": "x"}}),
        (AWS, {"docker": AWS["docker"] | {"image": "registry.example.com/balletal:latest"}}),
        (AWS, {"max_workers": -1}),
        (AWS, {"file_mounts": {}}),
        (MACHINES, {"setup_command": []}),
        (MACHINES, {"max_workers": 3}),
        (MACHINES, {"head_start_ray_commands": ["ray start --head --dashboard-host=127.0.0.1"]}),
    ],
)
def test_a_mistake_is_found(config: Document, change: dict[str, Any]) -> None:
    with pytest.raises((AssertionError, ValueError, jsonschema.ValidationError)):
        check_launcher(config | change)
