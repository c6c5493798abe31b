"""The data folder in a bucket: all that outlives a request, against a real S3 server."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import s3fs
from fastapi.testclient import TestClient

from tests.workflows.conftest import TinyBundle
from tests.workflows.serve.fakes import told
from tests.workflows.serve.jobs_common import Backend, IdleRunner, wait
from tests.workflows.serve.tiny import BYTES, upload
from workflows.serve.access import session_secret
from workflows.serve.app import create_app
from workflows.serve.backend import Model
from workflows.serve.data import Data
from workflows.serve.runner import Bundle, LocalRunner
from workflows.serve.sources import Sources

pytestmark = pytest.mark.ray


@pytest.fixture
def replica(tiny_bundle: TinyBundle, s3: str, request: pytest.FixtureRequest) -> Callable[[Any], TestClient]:
    """``replica(runner)``: a service over one prefix of a bucket; each call is another one."""
    model, data = Model.of(tiny_bundle.localizer), Data(f"{s3}/{request.node.name}")
    sources = Sources((s3,))
    return lambda runner: TestClient(create_app(Backend(runner, [model]), data, sources=sources))


def test_a_bucket_keeps_uploads_and_jobs(
    replica: Callable[[Any], TestClient], bundles: dict[str, Bundle], make_video: Callable[..., Path], tmp_path: Path
) -> None:
    content = make_video(tmp_path / "class.mp4", 3.0).read_bytes()
    # With a Ray of their own: one that runs already would not have the server's address in its workers' environment.
    runners = [LocalRunner(bundles), LocalRunner(bundles)]
    try:
        with replica(runners[0]) as client:
            video_id = upload(client, content, chunk=4096)
            assert client.post(f"/v1/uploads/{video_id}/complete").status_code == 201
            job_id = client.post("/v1/jobs", json={"inputs": [{"video_id": video_id}]}).json()["id"]
            until = time.monotonic() + 300
            while client.get(f"/v1/jobs/{job_id}").json()["status"] == "queued":
                assert time.monotonic() < until
                time.sleep(0.1)
        with replica(runners[1]) as client:  # the service is started anew; the driver goes on
            state = wait(client, job_id)
            assert (state["status"], state["counts"]["ok"]) == ("succeeded", 1), state
            assert [one["id"] for one in client.get("/v1/jobs").json()["jobs"]] == [job_id]
            assert [one["video_id"] for one in client.get("/v1/videos").json()["videos"]] == [video_id]
            found = client.get(f"/v1/jobs/{job_id}/results", params={"limit": 10_000}).json()["segments"]
            assert found
            events = told(client.get(f"/v1/jobs/{job_id}/events").text)
            assert [data for name, _, data in events if name == "segment"] == found
            part = client.get(f"/v1/videos/{video_id}/content", headers={"Range": "bytes=100-199"})
            assert (part.status_code, part.content) == (206, content[100:200])
            [driver] = runners[0].processes.values()
            driver.wait(300)
            for path in (f"/v1/jobs/{job_id}", f"/v1/videos/{video_id}"):
                assert client.delete(path).status_code == 204
                assert client.get(path).status_code == 404
            data = client.app.state.context.data.uri  # type: ignore[attr-defined]
            assert {f"s3://{path}" for path in s3fs.S3FileSystem().find(data)} <= {data}
    finally:
        for runner in runners:
            runner.close()


def test_what_is_created_once_in_a_bucket(
    replica: Callable[[Any], TestClient], bundles: dict[str, Bundle], s3: str
) -> None:
    """Of replicas that do the same at once, one does it."""
    idle = IdleRunner(bundles)
    clients = [replica(idle), replica(idle)]
    video_id = clients[0].post("/v1/uploads", json={"filename": "a.mp4", "bytes": 8}).json()["id"]
    where, headers = f"/v1/uploads/{video_id}", BYTES | {"Upload-Offset": "0"}
    wanted, key = {"inputs": [{"uri": "s3://videos/class.mp4"}]}, {"Idempotency-Key": "k1"}
    with ThreadPoolExecutor(8) as pool:
        pieces = pool.map(lambda i: clients[i % 2].patch(where, content=b"%d" % i * 8, headers=headers), range(8))
        assert sorted(piece.status_code for piece in pieces) == [204] + [409] * 7
        secrets = set(pool.map(lambda _: session_secret(f"{s3}/once"), range(8)))
        assert len(secrets) == 1
        jobs = list(pool.map(lambda i: clients[i % 2].post("/v1/jobs", json=wanted, headers=key), range(8)))
    assert sorted(job.status_code for job in jobs) == [200] * 7 + [202], jobs[0].text
    assert len({job.json()["id"] for job in jobs}) == len(idle.submitted) == 1
