"""Where the drivers of jobs run: processes of their own, which outlive the replica that started them."""

import asyncio
import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from workflows.ray_jobs import RayJobs

Running = Literal["pending", "running", "ended", "unknown"]
T = TypeVar("T")

_STOP_S = 20.0

# Threads of their own: a cluster that does not answer keeps each for a minute, and files are read in the others.
_calls = ThreadPoolExecutor(4, "ray-jobs")


@dataclass(frozen=True)
class Bundle:
    """A bundle that drivers use: readable on every node, like the weights of its backbone if they are not its own."""

    uri: str
    weights: str | list[str] | None = None
    flow: str | None = None


class JobRunner(Protocol):
    """Starts drivers and tells of them.

    Attributes:
        bundles: what can be localized with, by ``name@version``.
    """

    bundles: Mapping[str, Bundle]

    async def submit(self, job_folder: str, submission_id: str) -> None:
        """Start a driver; nothing when one was started under that id before."""
        ...

    async def status(self, submission_id: str) -> Running:
        """What has become of it; ``unknown`` where this runner was never told of it."""
        ...

    async def stop(self, submission_id: str) -> None:
        """Have it end, if it is there."""
        ...


def _command(python: str, job_folder: str, submission_id: str) -> list[str]:
    return [python, "-m", "workflows.serve.driver", job_folder, submission_id.rpartition("-")[2]]


class LocalRunner:
    """Drivers as children of this process.

    Args:
        slots: how many run at the same time; the others are pending.
        address: the Ray cluster that they join; None: each has a private Ray.
    """

    def __init__(self, bundles: Mapping[str, Bundle], slots: int = 1, address: str | None = None) -> None:
        self.bundles = bundles
        self._slots, self._address = slots, address
        self._waiting: dict[str, list[str]] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    async def submit(self, job_folder: str, submission_id: str) -> None:
        if submission_id not in self._waiting and submission_id not in self.processes:
            self._waiting[submission_id] = _command(sys.executable, job_folder, submission_id)
        self._start()

    async def status(self, submission_id: str) -> Running:
        self._start()
        if submission_id in self._waiting:
            return "pending"
        process = self.processes.get(submission_id)
        if process is None:
            return "unknown"
        return "running" if process.poll() is None else "ended"

    async def stop(self, submission_id: str) -> None:
        self._waiting.pop(submission_id, None)
        process = self.processes.get(submission_id)
        if process is None or process.poll() is not None:
            return
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(process.wait, _STOP_S)
        if process.poll() is None:
            process.kill()
            await asyncio.to_thread(process.wait)

    def close(self) -> None:
        """End all drivers at once, as a machine that fails would."""
        self._waiting.clear()
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()

    def _start(self) -> None:
        running = sum(process.poll() is None for process in self.processes.values())
        for submission_id in list(self._waiting)[: max(0, self._slots - running)]:
            command = self._waiting.pop(submission_id)
            # A group of its own: Ctrl-C at a terminal is for the server, which leaves its jobs to the next one.
            self.processes[submission_id] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, process_group=0, env=_environment(self._address)
            )


async def _called(function: Callable[..., T], *args: str) -> T:
    return await asyncio.get_running_loop().run_in_executor(_calls, function, *args)


def _environment(address: str | None) -> dict[str, str]:
    """That of this process, which may be a worker of a Ray that its drivers are not to join."""
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return inherited if address is None else inherited | {"RAY_ADDRESS": address}


class RayRunner:
    """Drivers as Ray jobs of a cluster with a dashboard.

    Args:
        address: of the dashboard, ``http://host:8265``; None: the cluster that this process belongs to.
        python: the interpreter on the cluster's head.
    """

    def __init__(self, bundles: Mapping[str, Bundle], address: str | None = None, python: str = sys.executable) -> None:
        self.bundles = bundles
        self._address, self._python = address, python
        self._client: RayJobs | None = None

    async def submit(self, job_folder: str, submission_id: str) -> None:
        await _called(self._submit, job_folder, submission_id)

    async def status(self, submission_id: str) -> Running:
        return await _called(self._status, submission_id)

    async def stop(self, submission_id: str) -> None:
        if await self.status(submission_id) in ("pending", "running"):
            await _called(self._jobs().stop, submission_id)

    def _submit(self, job_folder: str, submission_id: str) -> None:
        self._jobs().submit(shlex.join(_command(self._python, job_folder, submission_id)), submission_id)

    def _status(self, submission_id: str) -> Running:
        job = self._jobs().job(submission_id)
        if job is None:
            return "unknown"
        return {"PENDING": "pending", "RUNNING": "running"}.get(str(job.status), "ended")  # type: ignore[return-value]

    def _jobs(self) -> RayJobs:
        if self._client is None:
            import ray

            self._client = RayJobs(self._address or ray.get_runtime_context().gcs_address)
        return self._client
