"""The Serve config file: what `serve deploy` would be given."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import ValidationError
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve.schema import ServeDeploySchema

from balletal.errors import InputError
from tests.conftest import ROOT
from tests.workflows.conftest import TinyBundle
from workflows.serve import access
from workflows.serve.deployments import ServeArgs, build
from workflows.serve.runner import Bundle

CONFIG = yaml.safe_load((ROOT / "cluster" / "serve_config.yaml").read_text())


def strict(schema: Any) -> Any:
    """Serve takes misspelt keys without a word."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {"additionalProperties": False} if "properties" in schema else {}
    return {key: strict(value) for key, value in schema.items()} | closed


def test_the_config_has_only_what_serve_knows() -> None:
    schema = strict(ServeDeploySchema.model_json_schema())
    jsonschema.validate(CONFIG, schema)
    ServeDeploySchema.model_validate(CONFIG)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(CONFIG | {"proxy_locations": "EveryNode"}, schema)


def test_the_config_names_an_application_that_takes_its_args() -> None:
    (application,) = CONFIG["applications"]
    assert application["import_path"] == f"{build.__module__}:{build.__name__}"
    ServeArgs.model_validate(application["args"])
    with pytest.raises(ValidationError):
        ServeArgs.model_validate(application["args"] | {"bundle": "x"})


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
    extractors, localizer, models, runner, data, _limits, rules, _sources = deployment.init_args
    spec_id = tiny_bundle.localizer.spec.spec_id
    assert extractors.keys() == {spec_id}
    assert localizer._bound_deployment._deployment_config.autoscaling_config.max_replicas == 2
    assert runner.bundles == {models[0].id: Bundle(tiny_bundle.folder, [tiny_bundle.weights])}
    assert ([one.name for one in models], data.uri) == (["tiny"], str(tmp_path))
    assert [token.owner for token in rules.tokens] == ["anna"]
    assert len(rules.secret) == 32
