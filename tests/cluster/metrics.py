"""The metrics that the dashboard and the alerts name, and whether there are such."""

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any
from unittest import mock

from tests.cluster.checks import Document
from tests.conftest import ROOT
from workflows import progress
from workflows.serve.metrics import Metrics

# Of Ray, Serve and Prometheus, by label. Read at a node's /metrics of ray 2.60; those of GPUs in its
# dashboard/modules/reporter/reporter_agent.py.
_SERVE = {"application", "deployment", "replica"}
_NODE = {"ip", "IsHeadNode", "RayNodeType"}
_GPU = _NODE | {"GpuIndex", "GpuDeviceName"}
_THEIRS: dict[str, set[str]] = {
    "up": {"job", "instance"},
    "ray_running_jobs": set(),
    "ray_serve_actual_batch_size_sum": _SERVE,
    "ray_serve_actual_batch_size_count": _SERVE,
    "ray_serve_batch_queue_length": _SERVE,
    "ray_serve_deployment_queued_queries": _SERVE,
    "ray_serve_deployment_replica_healthy": _SERVE,
    "ray_serve_deployment_status": _SERVE,
    "ray_serve_replica_processing_queries": _SERVE,
    "ray_node_cpu_utilization": _NODE,
    "ray_node_disk_utilization_percentage": _NODE,
    "ray_node_gpus_utilization": _GPU,
    "ray_node_gram_used": _GPU,
    "ray_node_mem_used": _NODE,
    "ray_node_mem_total": _NODE,
}
_WORDS = {"sum", "avg", "min", "by", "rate", "increase", "histogram_quantile", "le"}


class _Names:
    """A registry that keeps names alone, as Ray shows them; and in the place of `ray.util.metrics`."""

    def __init__(self) -> None:
        self.labels: dict[str, set[str]] = {}

    def counter(self, name: str, about: str, labels: tuple[str, ...]) -> Callable[..., None]:
        self.labels[f"ray_{name}"] = {*labels}
        return lambda *_: None

    def histogram(self, name: str, about: str, labels: tuple[str, ...]) -> Callable[..., None]:
        self.labels |= {f"ray_{name}_sum": {*labels}, f"ray_{name}_count": {*labels}}
        self.labels[f"ray_{name}_bucket"] = {*labels, "le"}
        return lambda *_: None

    def text(self) -> str:
        return ""

    def Counter(self, name: str, description: str) -> Any:  # noqa: N802 (Ray's name)
        return self.counter(f"{name}_total", description, ())

    def Gauge(self, name: str, description: str) -> Any:  # noqa: N802
        # Ray shows a gauge once for each time that it is set; a graph of it has holes.
        return None


@cache
def known_metrics() -> dict[str, set[str]]:
    """Labels by metric: those that the code makes, and the others' that were looked up."""
    names = _Names()
    Metrics(names)
    with mock.patch.object(progress, "metrics", names):
        progress.Progress({}, {}, lambda: (0.0, 0.0))
    return names.labels | _THEIRS


@cache
def known_values() -> dict[str, set[str]]:
    """Values of labels that the code fixes."""
    paths = json.loads((ROOT / "schemas" / "openapi.json").read_text())["paths"]
    service = "".join(path.read_text() for path in (ROOT / "workflows" / "serve").glob("*.py"))
    return {
        "route": {*paths, *re.findall(r'@router\.websocket\("([^"]+)"\)', service)},
        "type": {*re.findall(r'Problem\(\s*\d+,\s*"([a-z-]+)"', service)},
        "deployment": {*re.findall(r'@serve\.deployment\(\s*name="(\w+)"', service)},
        "method": {"GET", "POST", "PUT", "PATCH", "HEAD", "DELETE", "WS"},
    }


def check_expression(text: str) -> None:
    """That every metric of a PromQL expression is there, with the labels and values that it is asked for."""
    metrics, values = known_metrics(), known_values()
    bare = re.sub(r"\[[^\]]*\]|\{[^}]*\}|\([\w, ]*\)(?= \()", " ", text)
    assert text.count("(") == text.count(")"), f"brackets: {text}"
    named = set(re.findall(r"[a-z_]\w*", bare)) - _WORDS
    assert named, f"no metric: {text}"
    assert named <= metrics.keys(), f"no such metric: {named - metrics.keys()}"
    have = set.union(*(metrics[name] for name in named))
    grouped = {label for labels in re.findall(r"by \(([^)]*)\)", text) for label in re.split(r",\s*", labels)}
    assert grouped <= have, f"no such label: {grouped - have} in {text}"
    for name, matchers in re.findall(r"(\w+)\{([^}]*)\}", text):
        for label, relation, value in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', matchers):
            assert label in metrics[name], f"{name} has no label {label}"
            if "~" not in relation and label in values:
                assert value in values[label], f"{label} is never {value}"


def check_dashboard(dashboard: Document) -> None:
    """That Grafana's panels ask for what there is, from the datasource that is chosen, and lie side by side."""
    (datasource,) = dashboard["templating"]["list"]
    assert (datasource["name"], datasource["type"], datasource["query"]) == ("datasource", "datasource", "prometheus")
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels), "two panels of one id"
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in _rows(place)}
        assert not cells & taken, f"{panel['title']} lies on another panel"
        assert place["x"] + place["w"] <= 24, f"{panel['title']} is beyond the edge"
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0, panel["title"]
        for target in panel["targets"]:
            check_expression(target["expr"])


def _rows(place: Document) -> range:
    return range(place["y"], place["y"] + place["h"])


def check_alerts(rules: Document) -> None:
    """That Prometheus knows every key, and that each alert asks for what there is and says so."""
    assert rules.keys() == {"groups"}, rules.keys()
    names = [rule["alert"] for rule in _rules(rules)]
    assert len({*names}) == len(names), "two alerts of one name"
    for group in rules["groups"]:
        assert group.keys() == {"name", "rules"}, group.keys()
    for rule in _rules(rules):
        assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}, f"{rule['alert']}: {[*rule]}"
        assert re.fullmatch(r"\d+[smh]", rule["for"]), rule["for"]
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
        assert rule["annotations"].keys() == {"summary"}, rule["alert"]
        check_expression(rule["expr"])


def _rules(rules: Document) -> Iterator[Document]:
    for group in rules["groups"]:
        yield from group["rules"]


def check_scrapes(config: Document) -> None:
    """That Prometheus knows every key here, and that nothing is counted twice."""
    assert config.keys() <= {"global", "rule_files", "scrape_configs"}, config.keys()
    for file in config["rule_files"]:
        assert (ROOT / "cluster" / file).is_file(), file
    ways = {"file_sd_configs", "kubernetes_sd_configs", "static_configs"}
    beside = {"job_name", "authorization", "relabel_configs", "metric_relabel_configs"}
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    for name, job in jobs.items():
        assert job.keys() <= ways | beside, f"{name}: {[*job]}"
        assert len(job.keys() & ways) == 1, f"{name}: {[*job]}"
        for rule in [*job.get("relabel_configs", []), *job.get("metric_relabel_configs", [])]:
            assert rule.keys() <= {"source_labels", "regex", "action", "target_label"}, f"{name}: {[*rule]}"
            re.compile(rule.get("regex", ""))
    # The service tells what the nodes tell.
    drops = jobs["balletal"]["metric_relabel_configs"]
    assert {"source_labels": ["__name__"], "regex": "ray_.*", "action": "drop"} in drops, "counted twice"
