"""`cluster/kubernetes/`: what an operator would be given, held against KubeRay's own schemas."""

import copy
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from pydantic import ValidationError

from balletal.errors import InputError
from tests.cluster.checks import CLUSTER, Document, Schemas, check_document, documents, quantity
from tests.conftest import ROOT

FILES = sorted((CLUSTER / "kubernetes").glob("*.yaml"))
EVERYTHING = {path.name: documents(path) for path in FILES}
ALL = [document for file in EVERYTHING.values() for document in file]


@pytest.fixture(scope="module")
def schemas(require: Callable[[str], NoReturn]) -> Schemas:
    folder = Path(os.environ.get("BALLETAL_SHARED", ROOT.parent / "shared")) / "kuberay-crd"
    if not folder.is_dir():
        require(f"no KubeRay schemas at {folder}")
    return Schemas(folder)


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_manifest_holds(schemas: Schemas, name: str) -> None:
    for document in EVERYTHING[name]:
        check_document(schemas, document, ALL)


def test_there_is_a_manifest_of_every_kind_that_is_wanted() -> None:
    kinds = {document["kind"] for document in ALL}
    assert {"RayCluster", "RayJob", "RayCronJob", "CronJob", "RayService", "Secret", "StatefulSet"} <= kinds
    # KubeRay calls services and pods by these names, whatever the kind.
    names = [one["metadata"].get("name") for one in ALL if one["kind"] in ("RayCluster", "RayService", "RayCronJob")]
    assert len({*names}) == len(names)


def _at(document: Document, path: str) -> tuple[Any, Any]:
    """What holds the last key of a path such as ``spec/workerGroupSpecs/0``, and that key."""
    *above, last = (int(key) if key.isdigit() else key for key in path.split("/"))
    for key in above:
        document = document[key]
    return document, last


HEAD = "headGroupSpec/template/spec/containers/0"
WORKER = "workerGroupSpecs/1/template/spec/containers/0"
NIGHTLY = "jobTemplate/spec/template/spec/containers/0"

# A file, the place of a mistake, what stands there then (... : nothing), and what the check says.
MISTAKES: list[tuple[str, str, Any, str]] = [
    ("raycluster.yaml", "spec/enableInTreeAutoscalling", True, "enableInTreeAutoscalling is not known"),
    ("raycluster.yaml", "kind", "RayClutser", "a kind that is not known"),
    ("raycluster.yaml", "apiVersion", "ray.io/v2", "was expected"),
    ("raycluster.yaml", "metadata/name", "Balletal_1", "not valid"),
    ("raycluster.yaml", f"spec/{HEAD}/imagePullPolice", "Always", "imagePullPolice is not known"),
    ("raycluster.yaml", f"spec/{HEAD}/image", "registry.example.com/balletal:0.1.0-ray2.59.0-cpu", "2.59.0"),
    ("raycluster.yaml", f"spec/{HEAD}/resources/requests/cpu", "5", "cpu 5, limit 4"),
    ("raycluster.yaml", f"spec/{HEAD}/envFrom/0/secretRef/name", "balletal-s4", "no Secret balletal-s4"),
    ("raycluster.yaml", f"spec/{HEAD}/volumeMounts", [{"name": "runs", "mountPath": "/data"}], "no volume"),
    ("raycluster.yaml", f"spec/{WORKER}/image", "registry.example.com/balletal:0.1.0-ray2.60.0-cpu", "gpu"),
    ("raycluster.yaml", f"spec/{WORKER}/securityContext/runAsNonRoot", False, "may be root"),
    ("raycluster.yaml", "spec/rayVersion", "2.59.0", "rayVersion"),
    ("raycluster.yaml", "spec/authOptions/mode", "disabled", "no token"),
    ("raycluster.yaml", "spec/authOptions/secretName", "balletal-s3", "auth_token"),
    ("raycluster.yaml", "spec/gcsFaultToleranceOptions/redisAddress", "redis:6379", "no Service redis"),
    ("raycluster.yaml", "spec/gcsFaultToleranceOptions/redisAddress", "balletal-redis:6380", "6380"),
    ("raycluster.yaml", "spec/gcsFaultToleranceOptions/redisPassword/valueFrom/secretKeyRef/key", "pass", "no pass"),
    ("raycluster.yaml", "spec/workerGroupSpecs/0/maxReplicas", 0, "replicas 1 <= 1 <= 0"),
    ("raycluster.yaml", "spec/enableInTreeAutoscaling", ..., "without an autoscaler"),
    ("raycluster.yaml", "spec/headGroupSpec/rayStartParams/num-cpus", "4", "takes work"),
    ("rayservice.yaml", f"spec/rayClusterConfig/{HEAD}/ports/3/containerPort", 8001, "not the port"),
    ("rayservice.yaml", f"spec/rayClusterConfig/{WORKER}/envFrom/1", ..., "no tokens"),
    ("rayjob-score.yaml", "spec/jobId", "nightly", "its own id"),
    ("rayjob-score.yaml", "spec/shutdownAfterJobFinishes", False, "the cluster stays"),
    ("rayjob-score.yaml", "spec/ttlSecondsAfterFinished", 86400, "for long"),
    ("rayjob-score.yaml", "spec/entrypoint", "balletal score --bundle b --videos v --out o", "one bad video"),
    ("rayjob-score.yaml", "spec/workerGroupSpecs", [], "workerGroupSpecs is not known"),
    ("raycronjob-score.yaml", "spec/scheduel", "0 2 * * *", "scheduel is not known"),
    ("raycronjob-score.yaml", "spec/jobTemplate/backoffLimit", 1, "not the job of"),
    ("cronjob-score.yaml", "spec/concurrencyPolicy", "Never", "is not one of"),
    ("cronjob-score.yaml", f"spec/{NIGHTLY}/env/2/valueFrom/secretKeyRef/key", "token", "has no token"),
    ("cronjob-score.yaml", f"spec/{NIGHTLY}/env/0/value", "http://balletal-job-head-svc:8265", "no RayCluster"),
    ("cronjob-score.yaml", f"spec/{NIGHTLY}/image", "registry.example.com/balletal:0.1.0-ray2.59.0-cpu", "2.59.0"),
    ("redis.yaml", "spec/selector/matchLabels/app", "redis", "the selector finds no pod"),
]


@pytest.mark.parametrize(("name", "path", "value", "said"), MISTAKES, ids=[f"{one[0]}:{one[1]}" for one in MISTAKES])
def test_a_mistake_is_found(schemas: Schemas, name: str, path: str, value: Any, said: str) -> None:
    document = copy.deepcopy(EVERYTHING[name][-1])
    holder, key = _at(document, path)
    if value is ...:
        del holder[key]
    else:
        holder[key] = value
    with pytest.raises(AssertionError, match=re.escape(said)):
        check_document(schemas, document, ALL)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("bundles:", "bundels:"),
        ("proxy_location", "proxy_locations"),
        ("serve.deployments:build", "serve.deployment:build"),
        ("gpus: 0.5", "gpus: 2"),
        ("port: 8000", "port: 8001"),
    ],
)
def test_a_mistake_in_a_service_s_config_is_found(schemas: Schemas, old: str, new: str) -> None:
    (document,) = copy.deepcopy(EVERYTHING["rayservice.yaml"])
    assert old in document["spec"]["serveConfigV2"]
    document["spec"]["serveConfigV2"] = document["spec"]["serveConfigV2"].replace(old, new)
    with pytest.raises((AssertionError, ValidationError)):
        check_document(schemas, document, ALL)


def test_a_mistake_in_a_pipeline_s_config_and_a_secret_that_is_one_are_found(schemas: Schemas) -> None:
    config = copy.deepcopy(EVERYTHING["rayjob-pipeline.yaml"][0])
    config["data"]["pipeline.yaml"] = config["data"]["pipeline.yaml"].replace("models:", "model:")
    with pytest.raises(InputError, match="model"):
        check_document(schemas, config, ALL)
    secret = copy.deepcopy(EVERYTHING["secrets.example.yaml"][1])
    secret["stringData"]["auth_token"] = "0123456789abcdef"
    with pytest.raises(AssertionError, match="a secret"):
        check_document(schemas, secret, ALL)


def test_quantities() -> None:
    assert [quantity(text) for text in ("500m", "2", "1Gi")] == [0.5, 2.0, 2.0**30]
