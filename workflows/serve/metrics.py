"""What the service counts and times, for Prometheus."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Protocol

import prometheus_client as prometheus

# Seconds: from a page's file to a minute of backbone on a CPU.
BUCKETS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)

Record = Callable[[float, Mapping[str, str]], None]
"""Adds a value, or an observation, under labels."""


class Registry(Protocol):
    """Where values are kept and shown."""

    def counter(self, name: str, about: str, labels: tuple[str, ...]) -> Record: ...
    def histogram(self, name: str, about: str, labels: tuple[str, ...]) -> Record: ...
    def text(self) -> str:
        """All values in Prometheus' text format."""
        ...


class ProcessRegistry:
    """In this process."""

    def __init__(self) -> None:
        self._registry = prometheus.CollectorRegistry()

    def counter(self, name: str, about: str, labels: tuple[str, ...]) -> Record:
        made = prometheus.Counter(name, about, labels, registry=self._registry)
        return lambda value, of: made.labels(**of).inc(value)

    def histogram(self, name: str, about: str, labels: tuple[str, ...]) -> Record:
        made = prometheus.Histogram(name, about, labels, buckets=BUCKETS, registry=self._registry)
        return lambda value, of: made.labels(**of).observe(value)

    def text(self) -> str:
        return prometheus.generate_latest(self._registry).decode()


class Metrics:
    """The metrics of one app."""

    def __init__(self, registry: Registry | None = None) -> None:
        self.registry = registry or ProcessRegistry()
        self._requests = self.registry.counter(
            "balletal_requests_total", "requests by route and status", ("method", "route", "status")
        )
        self._seconds = self.registry.histogram(
            "balletal_request_seconds", "from a request's head to the end of its answer", ("method", "route")
        )
        self._stages = self.registry.histogram("balletal_stage_seconds", "parts of a request's work", ("stage",))
        self._problems = self.registry.counter("balletal_problems_total", "requests refused, by type", ("type",))

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered; ``route`` with its parameters' names, not their values."""
        self._requests(1.0, {"method": method, "route": route, "status": str(status)})
        self._seconds(seconds, {"method": method, "route": route})

    def problem(self, urn: str) -> None:
        """A request was refused."""
        self._problems(1.0, {"type": urn})

    def stage(self, name: str, seconds: float) -> None:
        """A part of a request's work was done: ``receive``, ``probe``, ``features``, ``localize``."""
        self._stages(seconds, {"stage": name})


class Stages(dict[str, float]):
    """Seconds of the stages of one piece of work, in their order."""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = perf_counter()
        try:
            yield
        finally:
            self[name] = self.get(name, 0.0) + perf_counter() - started
