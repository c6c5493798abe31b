"""What is lost when a service is disturbed: `python -m tests.benchmarks.serving_faults [--only PART_OF_A_NAME]`.

A service with two gateways; the client is `balletal.client`. Each fault is made in the middle of what is said beside
it, a few times, and what comes of it in the end is compared with an undisturbed answer. Linux alone.
"""

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import httpx
import pandas as pd
import typer

from balletal.client import Client
from tests.benchmarks.extraction_common import load, machine
from tests.benchmarks.serving_common import Service, service
from tests.workflows.conftest import _write_video, make_tiny_bundle
from workflows.console import run, say

TIMES = 4
_PATIENCE_S, _BACK_S = 180.0, 120.0


class Drill:
    """A service, and what it answers undisturbed: to a request, ``answer`` in ``seconds``; of a job, ``results``."""

    def __init__(self, served: Service, home: Path) -> None:
        self.served = served
        self.video = _write_video(home / "long.mp4", 25.0, seed=9)
        client = self.client()
        self.ids = [client.upload(_write_video(home / f"{n}.mp4", 4.0, seed=n)).video_id for n in range(3)]
        self.asked()
        started = time.monotonic()
        self.answer = self.asked()
        self.seconds = time.monotonic() - started
        self.results = self.finished(self.submit())

    def client(self) -> Client:
        return Client(self.served.url, patience_s=_PATIENCE_S)

    def asked(self) -> list[dict[str, Any]]:
        """The segments of a video, by a request that takes a while."""
        return self.client().localize(self.video).segments.to_dict("records")

    def submit(self) -> str:
        return self.client().jobs.submit([{"video_id": one} for one in self.ids]).id

    def finished(self, job_id: str) -> list[dict[str, Any]]:
        """The results of a job, once it is finished."""
        jobs = self.client().jobs
        state = jobs.wait(job_id)
        assert state.status == "succeeded", state
        return pd.concat(jobs.results(job_id)).to_dict("records")

    def kill(self, role: str) -> None:
        """Kill the processes of a role; one of them where there are several."""
        found = self.served.processes(role)
        assert found, f"no {role}"
        os.kill(found[0], signal.SIGKILL)

    def back(self, role: str, count: int) -> None:
        """Wait until as many processes are there as were."""
        until = time.monotonic() + _BACK_S
        while len(self.served.processes(role)) < count or not self.served.ready():
            assert time.monotonic() < until, f"{role} did not come back"
            time.sleep(0.2)

    def in_a_request(self, role: str) -> str:
        """Kill a process at several moments of a request."""
        count, right = len(self.served.processes(role)), 0
        for n in range(TIMES):
            with ThreadPoolExecutor(1) as pool:
                asked = pool.submit(self.asked)
                time.sleep(self.seconds * (n + 0.5) / TIMES)
                self.kill(role)
                right += asked.result() == self.answer
            self.back(role, count)
        return f"{right} of {TIMES} answers are right"

    def in_a_job(self, role: str) -> str:
        """Kill a process while a job extracts."""
        job_id = self.submit()
        self.under_way(job_id)
        self.kill(role)
        return self.told(job_id)

    def under_way(self, job_id: str) -> None:
        until = time.monotonic() + _BACK_S
        while self.client().jobs.show(job_id).status not in ("extracting", "localizing"):
            assert time.monotonic() < until
            time.sleep(0.1)

    def told(self, job_id: str) -> str:
        return "1 of 1 results are right" if self.finished(job_id) == self.results else "0 of 1 results are right"


def as_one(drill: Drill) -> str:
    """Each request is a connection of its own, which leads to either gateway."""
    wanted = {"inputs": [{"video_id": one} for one in drill.ids]}
    headers = {"Idempotency-Key": str(time.time())}

    def asked(_: int) -> str:
        return str(httpx.post(f"{drill.served.url}/v1/jobs", json=wanted, headers=headers, timeout=60).json()["id"])

    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(asked, range(8)))
    assert len(ids) == 1, ids
    return drill.told(ids.pop())


FAULTS: tuple[tuple[str, str, Callable[[Drill], str]], ...] = (
    ("none: two gateways are asked at once", "the same job eight times, with one key", as_one),
    ("the extractor is killed", "a request", lambda drill: drill.in_a_request("Extractor")),
    ("the localizer is killed", "a request", lambda drill: drill.in_a_request("Localizer")),
    ("a gateway is killed", "a request", lambda drill: drill.in_a_request("Gateway")),
    ("a gateway is killed", "a job", lambda drill: drill.in_a_job("Gateway")),
    ("the driver is killed", "a job", lambda drill: drill.in_a_job("workflows.serve.driver")),
)


def main(
    only: Annotated[list[str] | None, typer.Option(help="Faults whose name or moment holds one of these.")] = None,
) -> None:
    """Print the table of faults, a row as soon as it is known."""
    home = Path(tempfile.mkdtemp(prefix="serving-"))
    good = True
    print(f"{machine('cpu')}; {load()}\n\n| fault | in the middle of | in the end |\n|---|---|---|", flush=True)

    def row(name: str, moment: str, made: Callable[[], str]) -> None:
        nonlocal good
        if only and not any(part.lower() in f"{name} {moment}".lower() for part in only):
            return
        try:
            verdict = made()
        except Exception as error:  # the others have their turn
            verdict = f"{type(error).__name__}: {error}".replace("\n", " ")
        right, _, of = verdict.partition(" of ")
        good &= right == of.partition(" ")[0]
        print(f"| {name} | {moment} | {verdict} |", flush=True)

    bundle = make_tiny_bundle(home)
    with service(bundle, home / "data", replicas=2) as served:
        drill = Drill(served, home)
        say(f"undisturbed: {drill.seconds:.1f} s a request, {len(drill.results)} segments of a job")
        for name, moment, disturb in FAULTS:
            row(name, moment, lambda disturb=disturb: disturb(drill))  # type: ignore[misc]
        job_id = drill.submit()
        drill.under_way(job_id)

    def restarted() -> str:
        with service(bundle, home / "data", replicas=2) as again:
            drill.served = again
            assert job_id in [job.id for job in drill.client().jobs.list()]
            return drill.told(job_id)

    row("the service ends and is started again", "a job", restarted)
    if good:
        shutil.rmtree(home)
    else:
        say(f"data: {home}")
        sys.exit(1)


if __name__ == "__main__":
    run(main)
