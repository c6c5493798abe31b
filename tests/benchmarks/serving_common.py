"""A service of its own for the benchmarks: that of `balletal serve`, in processes that can be looked at and killed."""

import contextlib
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.workflows.conftest import TinyBundle
from tests.workflows.seaweed import free_ports
from workflows.serve.command import serving
from workflows.serve.deployments import ServeArgs
from workflows.serve.limits import Limits

ROLES = ("Gateway", "Extractor", "Localizer", "ProxyActor")
_READY_S = 300.0


@dataclass(frozen=True)
class Service:
    """A running service. ``pid`` is the process that all of its others came of."""

    url: str
    pid: int

    def processes(self, role: str) -> list[int]:
        """The processes whose command line has that word."""
        return [process for process in _below(self.pid) if role in _command(process)]

    def memory(self) -> str:
        """MiB of its processes, by what they are."""
        found = {role: sum(map(_mib, self.processes(role))) for role in ROLES}
        return ", ".join(f"{role} {mib:.0f}" for role, mib in found.items())

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/v2/health/ready", timeout=10).status_code == 200
        except httpx.TransportError:
            return False


@contextlib.contextmanager
def service(bundle: TinyBundle, data: Path, **args: Any) -> Iterator[Service]:
    """A service that is ready; the limits of a token are out of the way.

    Args:
        args: further ones of :class:`ServeArgs`.
    """
    limits = Limits(max_live=1000, max_jobs=1000)
    weights = [bundle.weights] if bundle.weights else []
    wanted = ServeArgs(bundles=[bundle.folder], weights=weights, data=str(data), limits=limits, **args)
    port = free_ports(1)[0]
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(wanted, port))
    process.start()
    assert process.pid is not None
    served, until = Service(f"http://127.0.0.1:{port}", process.pid), time.monotonic() + _READY_S
    try:
        while not served.ready():
            assert process.is_alive()
            assert time.monotonic() < until
            time.sleep(0.5)
        yield served
    finally:
        process.terminate()
        process.join(60)
        process.kill()


def _serve(args: ServeArgs, port: int) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    os.setpgid(0, 0)
    with serving(args, port=port):
        signal.signal(signal.SIGTERM, stop)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


def _below(pid: int) -> list[int]:
    """All processes that came of one."""
    children: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            children += map(int, thread.read_text().split())
    return [*children, *(one for child in children for one in _below(child))]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it has ended
        return ""


def _mib(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    except OSError:
        return 0.0
