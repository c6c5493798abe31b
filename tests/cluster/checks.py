"""What must be true of the files in `cluster/`, beyond what an eye sees.

Each check raises `AssertionError`, which names the place; those that build a model of ours, what the model raises.
"""

import copy
import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from ray.serve.schema import ServeDeploySchema

from tests.conftest import ROOT
from workflows.config import validated
from workflows.pipeline import PipelineConfig
from workflows.serve.deployments import ServeArgs, build

CLUSTER = ROOT / "cluster"
Document = dict[str, Any]

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_UNITS = {"": 1.0, "m": 1e-3, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}


def documents(path: Path) -> list[Document]:
    """The YAML documents of a file."""
    return list(yaml.safe_load_all(path.read_text()))


def _known(validator: Any, properties: Document, value: Any, schema: Document) -> Iterator[jsonschema.ValidationError]:
    yield from jsonschema.Draft202012Validator.VALIDATORS["properties"](validator, properties, value, schema)
    if isinstance(value, dict):
        for key in value.keys() - properties.keys():
            yield jsonschema.ValidationError(f"{key} is not known here: {', '.join(properties)}")


# Takes no key that a schema does not name. Serve, and Kubernetes by these schemas, would take misspelt ones.
Strict = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"properties": _known})


def check_schema(schema: Document, value: Any) -> None:
    """That a value is of a JSON schema, without a key that the schema does not name."""
    for error in Strict(schema).iter_errors(value):
        raise AssertionError(f"{error.json_path}: {error.message}")


class Schemas:
    """KubeRay's resources. What is Kubernetes' own is found inside of them.

    Args:
        folder: of the CRDs.
    """

    def __init__(self, folder: Path) -> None:
        self.kinds: dict[str, Document] = {}
        for path in sorted(folder.glob("*.yaml")):
            names, version, schema = _stored(path.read_text())
            schema["properties"] |= {"apiVersion": {"const": f"ray.io/{version}"}, "metadata": _METADATA}
            self.kinds[names["kind"]] = schema | {"required": ["apiVersion", "kind", "metadata", "spec"]}
        spec = self.kinds["RayCluster"]["properties"]["spec"]["properties"]
        pod = spec["headGroupSpec"]["properties"]["template"]
        volume = pod["properties"]["spec"]["properties"]["volumes"]["items"]["properties"]
        self.kinds |= _core(pod, volume["ephemeral"]["properties"]["volumeClaimTemplate"]["properties"]["spec"])

    def check(self, document: Document) -> None:
        """That Kubernetes knows every key of a document."""
        assert document.get("kind") in self.kinds, f"a kind that is not known: {document.get('kind')}"
        check_schema(self.kinds[document["kind"]], document)


def _stored(crd: str) -> tuple[Document, str, Document]:
    """Names, version and schema of a CRD's text. Older versions make half of it, and reading takes seconds."""
    head, _, rest = crd.partition("\n  versions:\n")
    for text in re.split(r"(?m)^(?=  - )", rest):
        if "\n    storage: true\n" in text:
            (version,) = yaml.load(text, yaml.CSafeLoader)
            return yaml.safe_load(head)["spec"]["names"], version["name"], version["schema"]["openAPIV3Schema"]
    raise AssertionError("no version is stored")


def _object(required: Mapping[str, Any], **optional: Any) -> Document:
    properties = {**required, **optional}
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_METADATA = {
    "oneOf": [
        _object({"name": {"type": "string", "pattern": f"^{_NAME.pattern}$"}}, labels=_TEXTS, annotations=_TEXTS),
        _object({"generateName": {"type": "string", "pattern": "^[a-z0-9][a-z0-9-]*-$"}}, labels=_TEXTS),
    ]
}


def _core(pod: Document, claim: Document) -> dict[str, Document]:
    """Of Kubernetes' own kinds, what the files here use."""

    def kind(api: str, **parts: Any) -> Document:
        return _object({"apiVersion": {"const": api}, "kind": True, "metadata": _METADATA, **parts})

    port = _object(
        {"name": {"type": "string"}, "port": {"type": "integer"}}, targetPort={"type": ["integer", "string"]}
    )
    sets = _object(
        {
            "serviceName": {"type": "string"},
            "replicas": {"type": "integer"},
            "selector": _object({"matchLabels": _TEXTS}),
            "template": pod,
        },
        volumeClaimTemplates={
            "type": "array",
            "items": _object({"metadata": _object({"name": {"type": "string"}}), "spec": claim}),
        },
    )
    job = _object({"template": pod}, backoffLimit={"type": "integer"})
    nightly = _object(
        {"schedule": {"type": "string"}, "jobTemplate": _object({"spec": job})},
        timeZone={"type": "string"},
        concurrencyPolicy={"enum": ["Allow", "Forbid", "Replace"]},
    )
    return {
        "Secret": kind("v1", type={"const": "Opaque"}, stringData=_TEXTS),
        "ConfigMap": kind("v1", data=_TEXTS),
        "PersistentVolumeClaim": kind("v1", spec=claim),
        "Service": kind("v1", spec=_object({"selector": _TEXTS, "ports": {"type": "array", "items": port}})),
        "StatefulSet": kind("apps/v1", spec=sets),
        "CronJob": kind("batch/v1", spec=nightly),
    }


@cache
def pinned() -> dict[str, str]:
    """Version by package, of `constraints.txt`; and our own."""
    lines = [line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return dict(lines) | {project["name"]: project["version"]}


def check_image(image: str, where: str) -> None:
    """That an image of ours is of this version and of the pinned Ray."""
    tag = f"balletal:{pinned()['balletal']}-ray{pinned()['ray']}"
    assert re.fullmatch(rf"registry\.example\.com/{re.escape(tag)}-(cpu|cuda)", image), f"{where}: {image}, not {tag}"


def clusters(document: Document) -> Iterator[Document]:
    """The RayCluster specs of a document."""
    spec = document.get("spec", {})
    match document["kind"]:
        case "RayCluster":
            yield spec
        case "RayJob":
            yield spec["rayClusterSpec"]
        case "RayCronJob":
            yield spec["jobTemplate"]["rayClusterSpec"]
        case "RayService":
            yield spec["rayClusterConfig"]


def check_cluster(spec: Document) -> None:
    """What the CRD cannot say of a RayCluster."""
    assert spec["rayVersion"] == pinned()["ray"], f"rayVersion {spec['rayVersion']}"
    assert spec["authOptions"]["mode"] == "token", "authOptions: no token"
    head, groups = spec["headGroupSpec"], spec["workerGroupSpecs"]
    # Work on the head could end it, for want of memory, and the cluster with it.
    assert head["rayStartParams"]["num-cpus"] == "0", "the head takes work"
    for group in groups:
        name, low, high = group["groupName"], group["minReplicas"], group["maxReplicas"]
        assert low <= group["replicas"] <= high, f"{name}: replicas {low} <= {group['replicas']} <= {high}"
        assert low == high or spec.get("enableInTreeAutoscaling"), f"{name}: grows without an autoscaler"
    for name, group in [("head", head), *((one["groupName"], one) for one in groups)]:
        (container,) = group["template"]["spec"]["containers"]
        check_image(container["image"], name)
        gpus = "nvidia.com/gpu" in container["resources"]["limits"]
        assert container["image"].endswith("-cuda" if gpus else "-cpu"), f"{name}: {container['image']}"
    resting = [group for group in groups if group["minReplicas"] > 0]
    assert resting, "no worker to begin with: `score` would find no CPU"


def check_pod(pod: Document, claims: tuple[str, ...] = ()) -> None:
    """That a pod's spec holds together.

    Args:
        claims: volumes that a StatefulSet gives its pods.
    """
    volumes = {volume["name"] for volume in pod.get("volumes", [])} | {*claims}
    mounted: set[str] = set()
    for container in pod["containers"]:
        name = container["name"]
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert requests.keys() == limits.keys(), f"{name}: requests and limits of other things"
        for kind, wanted in requests.items():
            assert 0 < quantity(wanted) <= quantity(limits[kind]), f"{name}: {kind} {wanted}, limit {limits[kind]}"
        mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
        assert mounts <= volumes, f"{name}: no volume {mounts - volumes}"
        mounted |= mounts
        safe = container["securityContext"] | pod.get("securityContext", {})
        assert safe["runAsNonRoot"], f"{name}: may be root"
        assert not safe["allowPrivilegeEscalation"], f"{name}: may become root"
        assert safe["capabilities"] == {"drop": ["ALL"]}, f"{name}: capabilities"
    assert mounted == volumes, f"mounted nowhere: {volumes - mounted}"


def quantity(text: str) -> float:
    """Kubernetes' `500m`, `2`, `16Gi` as a number."""
    found = re.fullmatch(r"([\d.]+)(\D*)", text)
    assert found, text
    return float(found[1]) * _UNITS[found[2]]


def found(value: Any, key: str) -> Iterator[Any]:
    """What stands below a key, anywhere in a document."""
    if isinstance(value, dict):
        for name, below in value.items():
            if name == key:
                yield below
            yield from found(below, key)
    elif isinstance(value, list):
        for below in value:
            yield from found(below, key)


def check_references(document: Document, everything: list[Document]) -> None:
    """That secrets, config maps, claims and services that a document names are among the files."""
    there = {(one["kind"], one["metadata"].get("name")): one for one in everything}

    def held(kind: str, name: str) -> Document:
        assert (kind, name) in there, f"no {kind} {name}"
        return there[kind, name]

    for one in found(document, "secretRef"):
        held("Secret", one["name"])
    for one in found(document, "secretKeyRef"):
        assert one["key"] in held("Secret", one["name"])["stringData"], f"{one['name']} has no {one['key']}"
    for one in found(document, "authOptions"):
        assert "auth_token" in held("Secret", one["secretName"])["stringData"], "KubeRay reads auth_token"
    for one in found(document, "configMap"):
        held("ConfigMap", one["name"])
    for one in found(document, "claimName"):
        held("PersistentVolumeClaim", one)
    for one in found(document, "redisAddress"):
        name, port = one.split(":")
        service = held("Service", name)["spec"]
        assert int(port) in {each["port"] for each in service["ports"]}, one
        pods = held("StatefulSet", name)["spec"]["template"]["metadata"]["labels"]
        assert service["selector"].items() <= pods.items(), f"{name} selects no pod"


def check_job(spec: Document) -> None:
    """That a RayJob may be tried again, and ends: jobs take up what is there, clusters cost."""
    assert spec["shutdownAfterJobFinishes"], "the cluster stays"
    assert spec["ttlSecondsAfterFinished"] <= 300, "the cluster stays for long"
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["preRunningDeadlineSeconds"] > 0
    assert spec["backoffLimit"] > 0, "is not tried again"
    assert "jobId" not in spec, "a second try would meet its own id"
    assert re.fullmatch(r"sh -c '[^']* \|\| test \$\? -eq 3'", spec["entrypoint"]), "one bad video fails all"
    for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
        assert group["minReplicas"] == group["maxReplicas"], f"{group['groupName']}: the job takes what is there first"


def check_submitter(container: Document, everything: list[Document]) -> None:
    """That a container submits to a cluster that is there, from the image that the cluster has."""
    check_image(container["image"], container["name"])
    (address,) = (one["value"] for one in container["env"] if one["name"] == "RAY_API_SERVER_ADDRESS")
    heads = {f"http://{one['metadata'].get('name')}-head-svc:8265" for one in everything if one["kind"] == "RayCluster"}
    assert address in heads, f"no RayCluster has {address}"


def check_serve(config: Document) -> None:
    """A Serve config file: Serve knows every key, and our application every argument."""
    check_schema(ServeDeploySchema.model_json_schema(), config)
    ServeDeploySchema.model_validate(config)
    (application,) = config["applications"]
    assert application["import_path"] == f"{build.__module__}:{build.__name__}", application["import_path"]
    ServeArgs.model_validate(application["args"])


def check_ray_service(document: Document) -> None:
    """A RayService's Serve config: that of `cluster/serve_config.yaml`, but for what an extractor reserves."""
    config = yaml.safe_load(document["spec"]["serveConfigV2"])
    check_serve(config)
    plain, own = yaml.safe_load((CLUSTER / "serve_config.yaml").read_text()), copy.deepcopy(config)
    for one in (plain, own):
        for key in ("cpus", "gpus"):
            del one["applications"][0]["args"][key]
    assert own == plain, "not the application of serve_config.yaml"
    cluster = document["spec"]["rayClusterConfig"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        (container,) = group["template"]["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports["serve"] == config["http_options"]["port"], "not the port that Serve listens on"
        assert {"secretRef": {"name": "balletal-tokens"}} in container["envFrom"], "no tokens"
    args, (most,) = config["applications"][0]["args"], _limits(cluster)
    assert args["gpus"] <= quantity(most["nvidia.com/gpu"]), "no node has so many GPUs"
    assert args["cpus"] <= quantity(most["cpu"]), "no node has so many CPUs"


def _limits(cluster: Document) -> list[Document]:
    """Of the containers that have GPUs."""
    containers = [group["template"]["spec"]["containers"][0] for group in cluster["workerGroupSpecs"]]
    return [one["resources"]["limits"] for one in containers if "nvidia.com/gpu" in one["resources"]["limits"]]


def check_document(schemas: Schemas, document: Document, everything: list[Document]) -> None:
    """All of the above, of one document of `cluster/kubernetes/`."""
    schemas.check(document)
    check_references(document, everything)
    for spec in clusters(document):
        check_cluster(spec)
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            check_pod(group["template"]["spec"])
    spec = document.get("spec", {})
    match document["kind"]:
        case "RayJob":
            check_job(spec)
        case "RayCronJob":
            check_job(spec["jobTemplate"])
            (score,) = documents(CLUSTER / "kubernetes" / "rayjob-score.yaml")
            assert spec["jobTemplate"] == score["spec"], "not the job of rayjob-score.yaml"
        case "RayService":
            check_ray_service(document)
        case "StatefulSet":
            labels = spec["template"]["metadata"]["labels"]
            assert spec["selector"]["matchLabels"].items() <= labels.items(), "the selector finds no pod"
            claims = tuple(claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"])
            check_pod(spec["template"]["spec"], claims)
        case "CronJob":
            pod = spec["jobTemplate"]["spec"]["template"]["spec"]
            check_pod(pod)
            check_submitter(pod["containers"][0], everything)
        case "ConfigMap":
            for name, text in document["data"].items():
                validated(PipelineConfig, yaml.safe_load(text), where=name)
        case "Secret":
            values = " ".join(document["stringData"].values())
            assert "REPLACE-ME" in values, "a secret in the repository?"
