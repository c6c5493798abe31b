"""Jobs and their drivers, whatever becomes of drivers and of the cluster."""

import asyncio
import time

from balletal import files
from workflows.serve import jobs, reconcile
from workflows.serve.data import new_id
from workflows.serve.jobstore import Request, State


def test_a_silent_driver_is_replaced_until_it_is_too_often(make, idle, store, bundles, monkeypatch) -> None:
    client = make(idle)
    job, _ = store.submit(Request(new_id(), "local", time.time(), [{"prefix": "/x"}], bundles, {}))
    url = f"/v1/jobs/{job.id}"
    assert client.get(url).headers["retry-after"] == "2"
    client.get(url)
    assert idle.submitted == [job.submission(1)]  # running, and just begun
    idle.answer = "unknown"
    client.get(url)
    assert idle.submitted == [job.submission(1)]
    monkeypatch.setattr(reconcile, "STALE_S", 0.0)
    job.report(State(1, "extracting", time.time() - 100, error="no cluster"))
    client.get(url)
    assert idle.submitted[1:] == [job.submission(2)]
    idle.answer = "ended"
    for _ in range(10):
        client.get(url)
    assert idle.submitted == [job.submission(n) for n in range(1, reconcile.MAX_ATTEMPTS + 1)]
    state = client.get(url).json()
    assert state["status"] == "failed"
    assert state["error"] == f"The job was tried {reconcile.MAX_ATTEMPTS} times: no cluster"


def test_a_cluster_that_takes_no_jobs_costs_none_of_their_attempts(make, idle, prefix, monkeypatch) -> None:
    async def refuse(job_folder: str, submission_id: str) -> None:
        raise RuntimeError("no agent")

    client = make(idle)
    with monkeypatch.context() as patch:
        patch.setattr(idle, "submit", refuse)
        sent = client.post("/v1/jobs", json={"inputs": [{"prefix": prefix}]})
        assert (sent.status_code, sent.json()["status"]) == (202, "queued")
        for _ in range(2 * reconcile.MAX_ATTEMPTS):
            assert client.get(f"/v1/jobs/{sent.json()['id']}").json()["status"] == "queued"
    client.get(f"/v1/jobs/{sent.json()['id']}")
    [submitted] = idle.submitted
    assert submitted.endswith("-1")


def test_nobody_waits_for_a_cluster_that_does_not_answer(make, idle, prefix, monkeypatch) -> None:
    asked, answered = [], asyncio.Event()

    async def hang(job_folder: str, submission_id: str) -> None:
        asked.append(submission_id)
        await answered.wait()

    monkeypatch.setattr(idle, "submit", hang)
    monkeypatch.setattr(jobs, "_TEND_S", 0.05)
    with make(idle) as client:
        sent = client.post("/v1/jobs", json={"inputs": [{"prefix": prefix}]})
        for _ in range(3):
            assert client.get(f"/v1/jobs/{sent.json()['id']}").json()["status"] == "queued"
    assert len(asked) == 1


def test_a_job_that_cannot_be_looked_after_keeps_no_other_from_it(idle, store, bundles) -> None:
    jobs = [store.submit(Request(new_id(), "local", 1000.0, [{"prefix": "/x"}], bundles, {}))[0] for _ in range(3)]
    broken = min(jobs, key=lambda job: job.id)  # the first in the queue
    files.write_bytes(broken.path("job.json"), b'{"of": "another release"}')
    asyncio.run(reconcile.reconcile_all(store, idle))
    assert sorted(idle.submitted) == sorted(job.submission(1) for job in jobs if job is not broken)
