"""Drivers as jobs of a real Ray."""

import asyncio
from pathlib import Path

import pytest

from workflows.serve.data import Data, new_id
from workflows.serve.jobstore import JobStore, Request
from workflows.serve.runner import Bundle, RayRunner


@pytest.mark.ray
def test_a_driver_is_a_ray_job(ray_cluster: None, tmp_path: Path) -> None:
    bundles = {"none@1": Bundle(f"{tmp_path}/none")}
    store, runner = JobStore(Data(str(tmp_path))), RayRunner(bundles)
    job, _ = store.submit(Request(new_id(), "me", 1.0, [{"uri": "/none.mp4"}], bundles, {}))
    job.begin(1)

    async def run(name: str) -> None:
        assert await runner.status(name) == "unknown"
        await asyncio.gather(*(runner.submit(job.folder, name) for _ in range(2)))
        assert await runner.status(name) != "unknown"
        async with asyncio.timeout(400):
            while await runner.status(name) != "ended":
                await asyncio.sleep(0.2)
        await runner.stop(name)

    asyncio.run(run(f"{job.id}-1"))
    done = job.done()
    assert done is not None
    assert done.status == "failed"
    assert done.error == "none@1/bundle.json: expected a file, found nothing there"
