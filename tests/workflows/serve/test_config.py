"""The Serve config file: what `serve deploy` would make of it. Its keys are checked in tests/cluster."""

from pathlib import Path

import pytest
import yaml
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary

from balletal.errors import InputError
from tests.conftest import ROOT
from tests.workflows.conftest import TinyBundle
from workflows.serve import access
from workflows.serve.deployments import build
from workflows.serve.runner import Bundle

CONFIG = yaml.safe_load((ROOT / "cluster" / "serve_config.yaml").read_text())


def test_build_binds_every_part(tiny_bundle: TinyBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (application,) = CONFIG["applications"]
    args = application["args"] | {
        "bundles": [tiny_bundle.folder],
        "data": str(tmp_path),
        "weights": [tiny_bundle.weights],
    }
    monkeypatch.delenv(access.TOKENS, raising=False)
    with pytest.raises(InputError, match="BALLETAL_TOKENS"):
        call_user_app_builder_with_args_if_necessary(build, args)
    monkeypatch.setenv(access.TOKENS, "anna 0123456789abcdef")
    app = call_user_app_builder_with_args_if_necessary(build, args)
    deployment = app._bound_deployment
    assert deployment.name == "Gateway"
    assert deployment.num_replicas == 2
    extractors, localizer, models, runner, data, _limits, rules, *_ = deployment.init_args
    spec_id = tiny_bundle.localizer.spec.spec_id
    assert extractors.keys() == {spec_id}
    assert localizer._bound_deployment._deployment_config.autoscaling_config.max_replicas == 2
    assert runner.bundles == {models[0].id: Bundle(tiny_bundle.folder, [tiny_bundle.weights])}
    assert ([one.name for one in models], data.uri) == (["tiny"], str(tmp_path))
    assert [token.owner for token in rules.tokens] == ["anna"]
    assert len(rules.secret) == 32
