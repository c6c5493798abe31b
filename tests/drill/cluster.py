"""A Ray cluster of real `ray start` processes, one a machine, with a bucket on a machine of its own."""

import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import requests

from tests.drill.machines import Machine, Machines, title
from tests.workflows.seaweed import Server, free_ports

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
BUCKET = "s3://videos"
T = TypeVar("T")


class Cluster:
    """A head that computes nothing and workers of one CPU each, all with one token; and a SeaweedFS.

    Attributes:
        environment: of the nodes, and of whoever asks the cluster or the bucket for something.
    """

    def __init__(self, machines: Machines, weed: str) -> None:
        self.machines, self.folder = machines, machines.folder
        self.store_machine, self.head = machines.new(), machines.new()
        self.workers: list[Machine] = []
        self._port, self._dashboard_port = free_ports(2)  # of a machine that may have a Ray already
        (seaweed := self.folder / "seaweed").mkdir()
        self.store = Server(weed, seaweed, self.store_machine.address, self.store_machine.within)
        self.environment = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # other work of this machine would starve them
            "RAY_idle_worker_killing_time_threshold_ms": "600000",  # or every other task imports torch again
            "RAY_raylet_start_wait_time_s": "120",  # of a machine with other work
            **self.store.environment,
        }

    @property
    def address(self) -> str:
        return f"{self.head.address}:{self._port}"

    @property
    def dashboard(self) -> str:
        return f"http://{self.head.address}:{self._dashboard_port}"

    def start(self, workers: int) -> None:
        """The bucket, the head, and so many workers."""
        self.store_machine.started.append(self.store.start())
        self.start_head()
        until(lambda: self.living() is not None, 180, "answer of the head")
        self.have_workers(workers)
        self.store.make_bucket()

    def start_head(self) -> None:
        """Start it, or start another one in its place."""
        words = ["--head", "--num-cpus=0", f"--port={self._port}"]
        words += [f"--dashboard-host={self.head.address}", f"--dashboard-port={self._dashboard_port}"]
        self._ray_start(self.head, *words)

    def add_worker(self) -> Machine:
        """One more node; it joins some seconds later."""
        self.workers.append(self.machines.new())
        self.start_worker(self.workers[-1])
        return self.workers[-1]

    def start_worker(self, machine: Machine) -> None:
        self._ray_start(machine, f"--address={self.address}", "--num-cpus=1")

    def _ray_start(self, machine: Machine, *words: str) -> None:
        private = dict.fromkeys(("HOME", "TMPDIR", "RAY_TMPDIR"), str(machine.disk))
        command = ["ray", "start", "--block", f"--node-ip-address={machine.address}", "--object-store-memory=120000000"]
        command += [f"--dashboard-agent-listen-port={free_ports(1)[0]}"]
        machine.start([*command, *words], self.environment | private, self.folder / f"{machine.name}.log")

    def power_off(self, machine: Machine) -> None:
        machine.power_off()
        if machine in self.workers:
            self.workers.remove(machine)

    def have_workers(self, number: int) -> None:
        """So many, no more and no fewer."""
        for machine in self.workers[number:]:
            self.power_off(machine)
        while len(self.workers) < number:
            self.add_worker()
        self.await_workers(number)

    def await_workers(self, number: int, limit_s: float = 300) -> None:
        """Wait until the head knows so many other nodes alive; start again what ended, as a supervisor does."""

        def there() -> bool:
            for machine in self.workers:
                if machine.started[-1].poll() is not None:
                    machine.power_off()
                    self.start_worker(machine)
            return self.living() == number

        until(there, limit_s, f"{number} workers")

    def living(self) -> int | None:
        """Nodes beside the head that it believes to be alive; None where it does not answer."""
        try:
            token = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
            answer = requests.get(f"{self.dashboard}/api/v0/nodes", headers=token, timeout=10)
            nodes: list[dict[str, Any]] = answer.json()["data"]["result"]["result"]
        except (requests.RequestException, KeyError, TypeError):
            return None
        return sum(node["state"] == "ALIVE" and not node["is_head_node"] for node in nodes)

    def submit(self, log: Path, *words: str) -> "subprocess.Popen[bytes]":
        """``balletal submit`` of somebody outside of the cluster; the job's log goes to ``log``."""
        command = [sys.executable, "-m", "workflows.submit", "--address", self.dashboard, "--no-working-dir", *words]
        with log.open("ab") as file:
            environment = self.environment | {"HOME": str(self.folder)}
            return subprocess.Popen(command, stdout=file, stderr=file, env=environment, cwd=ROOT)

    def at(self, pattern: str) -> list[Machine]:
        """The workers on which a process calls itself like that: ``ray::Map(_decode)`` and such."""
        return [machine for machine in self.workers if any(re.search(pattern, title(p)) for p in machine.processes())]


def until(condition: Callable[[], T], limit_s: float, what: str) -> T:
    """Wait for a condition; what it gave.

    Raises:
        TimeoutError: it does not come.
    """
    deadline = time.monotonic() + limit_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} within {limit_s:g} s")
        time.sleep(0.2)
    return found
