"""Drivers as jobs of a real Ray with a dashboard, in a process of its own: the tests' own Ray has none."""

import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = """
import asyncio, sys, time
from workflows.cluster import ray_session
from workflows.serve.data import Data, new_id
from workflows.serve.jobstore import JobStore, Request
from workflows.serve.runner import Bundle, RayRunner

async def main():
    bundles = {"none@1": Bundle(sys.argv[1] + "/none")}
    store, runner = JobStore(Data(sys.argv[1])), RayRunner(bundles)
    job, _ = store.submit(Request(new_id(), "me", 1.0, [{"uri": "/none.mp4"}], bundles, {}))
    job.begin(1)
    name = f"{job.id}-1"
    assert await runner.status(name) == "unknown"
    await asyncio.gather(*(runner.submit(job.folder, name) for _ in range(2)))
    assert await runner.status(name) != "unknown"
    while await runner.status(name) != "ended":
        await asyncio.sleep(0.2)
    await runner.stop(name)
    print(job.done())

with ray_session(num_cpus=1, dashboard=True):
    asyncio.run(main())
"""


@pytest.mark.ray
def test_a_driver_is_a_ray_job(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _SCRIPT, str(tmp_path)]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr
    told = ran.stderr  # where everything goes that is printed while a Ray is open
    assert "status='failed'" in told
    assert "none@1/bundle.json: expected a file, found nothing there" in told
