"""Metrics that Ray collects from all replicas: whichever of them is asked for them, the answer is the same."""

import logging
import urllib.request
from typing import Any

import ray
from ray.util import metrics

from workflows.serve.metrics import BUCKETS, Record

log = logging.getLogger(__name__)

# Ours, Serve's (queues, batches, replicas) and the nodes' GPUs.
_SHOWN = ("ray_balletal_", "ray_serve_", "ray_node_gpu", "ray_node_gram")
_TIMEOUT_S = 5.0


class RayRegistry:
    """Values go to Ray, which adds ``ray_`` to their names; a node's agent has those of all its processes.

    They reach it every few seconds.
    """

    def counter(self, name: str, about: str, labels: tuple[str, ...]) -> Record:
        made = metrics.Counter(name.removesuffix("_total"), about, tag_keys=labels)
        return lambda value, of: made.inc(value, dict(of))

    def histogram(self, name: str, about: str, labels: tuple[str, ...]) -> Record:
        made = metrics.Histogram(name, about, boundaries=list(BUCKETS), tag_keys=labels)
        return lambda value, of: made.observe(value, dict(of))

    def text(self) -> str:
        families: dict[str, list[str]] = {}
        for node in ray.nodes():
            if node["Alive"]:
                _add(families, _scraped(node))
        return "".join(f"{line}\n" for lines in families.values() for line in dict.fromkeys(lines))


def _scraped(node: dict[str, Any]) -> str:
    host = node["NodeManagerAddress"]
    url = f"http://{f'[{host}]' if ':' in host else host}:{node['MetricsExportPort']}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            content: bytes = answer.read()
    except OSError as error:  # a node that goes, or has no agent: the others' count
        log.warning("no metrics from node %s: %s", node["NodeID"], error)
        return ""
    return content.decode("utf-8", "replace")


def _add(families: dict[str, list[str]], text: str) -> None:
    """Sort lines by the family that they belong to: in the format, a family stands together."""
    family = ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split(" ", 3)[2]
        if family.startswith(_SHOWN):
            families.setdefault(family, []).append(line)
