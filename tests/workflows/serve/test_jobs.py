"""Jobs over HTTP, on a tiny app whose drivers are processes of their own."""

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray
from fastapi.testclient import TestClient

from balletal import files
from balletal.segments import segment_table
from balletal.video.probe import probe
from tests.workflows.serve.fakes import MP4, problem, told
from workflows.score import score
from workflows.serve import reconcile
from workflows.serve.app import create_app
from workflows.serve.backend import Model
from workflows.serve.data import Data, new_id
from workflows.serve.jobstore import Done, Job, JobStore, Request, State
from workflows.serve.library import Library, stored_video
from workflows.serve.limits import Limits
from workflows.serve.media import Look
from workflows.serve.results import segments_json
from workflows.serve.runner import Bundle, LocalRunner
from workflows.serve.sources import Sources


class IdleRunner:
    """Remembers what it was told, and starts nothing."""

    def __init__(self, bundles: dict[str, Bundle]) -> None:
        self.bundles = bundles
        self.submitted: list[str] = []
        self.answer = "running"

    async def submit(self, job_folder: str, submission_id: str) -> None:
        self.submitted.append(submission_id)

    async def status(self, submission_id: str) -> str:
        return self.answer

    async def stop(self, submission_id: str) -> None:
        self.submitted.append(f"stop {submission_id}")


@dataclass
class Backend:
    runner: Any
    served: list[Model]

    async def models(self) -> list[Model]:
        return self.served


@pytest.fixture
def make(tiny_bundle, tmp_path: Path) -> Callable[..., TestClient]:
    """``make(runner)``: a client of an app over one data folder; each call is another replica."""

    def _make(runner: Any, **limits: Any) -> TestClient:
        backend: Any = Backend(runner, [Model.of(tiny_bundle.localizer)])
        data = Data(str(tmp_path / "data"))
        sources, outputs = (Sources((str(tmp_path / name),)) for name in ("videos", "results"))
        app = create_app(backend, data, Limits(**limits), sources=sources, outputs=outputs)
        return TestClient(app, raise_server_exceptions=False)

    return _make


@pytest.fixture
def bundles(tiny_bundle) -> dict[str, Bundle]:
    return {Model.of(tiny_bundle.localizer).id: Bundle(tiny_bundle.folder, tiny_bundle.weights)}


@pytest.fixture
def idle(bundles) -> IdleRunner:
    return IdleRunner(bundles)


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(Data(str(tmp_path / "data")))


@pytest.fixture
def local(bundles, ray_cluster) -> Iterator[LocalRunner]:
    """Its drivers join the cluster of the tests, as starting a Ray for each takes long."""
    runner = LocalRunner(bundles, address=ray.get_runtime_context().gcs_address)
    yield runner
    runner.close()


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    (tmp_path / "videos").mkdir(exist_ok=True)
    return str(tmp_path / "videos")


def put_video(store: JobStore, source: Path, owner: str = "local") -> str:
    """A video as an upload leaves it."""
    video_id = new_id()
    copy = shutil.copy(source, source.with_suffix(".sent"))
    seen = Look(probe(str(source)), ".mp4", True, [])
    video = stored_video(video_id, owner, source.name, datetime.now(UTC), source.stat().st_size, "0" * 64, seen)
    Library(store.data).add(video, Path(copy))
    return video_id


def wait(client: TestClient, job_id: str, seconds: float = 120) -> dict[str, Any]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        body = client.get(f"/v1/jobs/{job_id}").json()
        if body["status"] in ("succeeded", "partial", "failed", "cancelled"):
            return body
        time.sleep(0.2)
    raise AssertionError(body)


@pytest.mark.ray
def test_a_job_gives_what_score_gives_though_its_driver_is_killed(
    make, local, store, prefix, make_video, tiny_bundle, tmp_path: Path
) -> None:
    for seed, name in enumerate(("a", "b")):
        make_video(Path(prefix) / f"{name}.mp4", 3.0, seed=seed)
    (Path(prefix) / "broken.mp4").write_bytes(b"no video")
    (Path(prefix) / "notes.txt").write_bytes(b"no video")
    (Path(prefix) / "elsewhere.mp4").symlink_to(make_video(tmp_path / "secret.mp4", 1.0))
    video_id = put_video(store, make_video(tmp_path / "c.mp4", 3.0, seed=2))
    make_video(Path(prefix) / "long.mp4", 4.0)
    client = make(local, max_duration_s=3.5)
    body = {"inputs": [{"prefix": prefix}, {"video_id": video_id}], "params": {"top_k": 7}}
    with client:
        job_id = client.post("/v1/jobs", json=body).json()["id"]
        job = store.job(job_id)
        assert job is not None
        until = time.monotonic() + 100
        while not list(tmp_path.glob("data/jobs/*/store/features/*/*.parquet")) and time.monotonic() < until:
            time.sleep(0.02)
        os.kill(local.processes[job.submission(1)].pid, signal.SIGKILL)
        state = wait(client, job_id)
        assert job.attempt()[0] == 2
        assert state["status"] == "partial", state
        assert state["counts"] == {"total": 5, "ok": 3, "failed": 2, "skipped": 0}
        assert state["inputs"] == 5
        local.processes[job.submission(2)].wait(60)
        assert not Path(job.path("store")).exists()

        expected_at = tmp_path / "expected"
        videos = {name: f"{prefix}/{name}.mp4" for name in ("a", "b", "broken")} | {
            video_id: f"{job.store.data.folder('videos', video_id)}/content.mp4"
        }
        score(tiny_bundle.folder, str(expected_at), videos=videos, weights=tiny_bundle.weights, top_k=7)
        expected = pd.read_parquet(expected_at / "detections.parquet")
        found = client.get(f"/v1/jobs/{job_id}/results").json()
        assert found["next_page_token"] is None
        assert found["segments"] == segments_json(expected, state["models"][0])
        assert {one["video_id"] for one in found["segments"]} == {"a", "b", video_id}

        errors = client.get(f"/v1/jobs/{job_id}/errors").json()["errors"]
        assert sorted((one["input"], one["stage"], one["type"]) for one in errors) == [
            (f"{prefix}/broken.mp4", "probe", "not-a-video"),
            (f"{prefix}/long.mp4", "probe", "too-large"),  # the same limits as for uploads
        ]
        every = told(client.get(f"/v1/jobs/{job_id}/events").text)
        assert [one[2]["status"] for one in every if one[0] == "status"][-1] == "writing"
        segments = [one[2] for one in every if one[0] == "segment"]
        assert sorted(map(str, segments)) == sorted(map(str, found["segments"]))
        assert every[-1][2]["status"] == "partial"


def test_two_replicas_cancel_and_what_a_client_got_wrong(make, bundles, prefix, make_video, store) -> None:
    make_video(Path(prefix) / "a.mp4", 3.0)
    runners = [LocalRunner(bundles), LocalRunner(bundles)]
    with contextlib.ExitStack() as stack:
        for runner in runners:
            stack.callback(runner.close)
        one, other = (stack.enter_context(make(runner)) for runner in runners)
        job_id = one.post("/v1/jobs", json={"inputs": [{"prefix": prefix}], "params": {"coarse": True}}).json()["id"]
        assert [job["id"] for job in other.get("/v1/jobs").json()["jobs"]] == [job_id]
        state = wait(other, job_id)
        assert state["status"] == "failed"
        assert "labels that have coarse names" in state["error"]
        assert store.job(job_id).attempt()[0] == 1  # what a client got wrong is not tried again
        runners[0].processes[store.job(job_id).submission(1)].wait(60)

        job_id = one.post("/v1/jobs", json={"inputs": [{"prefix": prefix}]}).json()["id"]
        process = runners[0].processes[store.job(job_id).submission(1)]
        assert other.post(f"/v1/jobs/{job_id}/cancel").json()["status"] == "cancelled"
        problem(one.post(f"/v1/jobs/{job_id}/cancel"), 409, "conflict")
        process.wait(60)  # the other replica has not started it: the driver sees for itself
        assert one.get(f"/v1/jobs/{job_id}").json()["status"] == "cancelled"
        assert one.delete(f"/v1/jobs/{job_id}").status_code == 204
        problem(other.get(f"/v1/jobs/{job_id}"), 404, "not-found")


def test_one_key_makes_one_job(make, idle, prefix) -> None:
    body = {"inputs": [{"prefix": prefix}]}
    headers = {"Idempotency-Key": "k1"}
    clients = [make(idle), make(idle)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: clients[i % 2].post("/v1/jobs", json=body, headers=headers), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [202]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(idle.submitted) == 1
    assert len(clients[0].get("/v1/jobs").json()["jobs"]) == 1
    other = {"inputs": [{"prefix": prefix, "glob": "*.mp4"}]}
    problem(clients[0].post("/v1/jobs", json=other, headers=headers), 422, "idempotency-key-reused")


def test_a_key_of_a_removed_job_makes_another(make, idle, store, prefix) -> None:
    client, body, headers = make(idle), {"inputs": [{"prefix": prefix}]}, {"Idempotency-Key": "k1"}
    for _ in range(2):
        answer = client.post("/v1/jobs", json=body, headers=headers)
        assert answer.status_code == 202
        job = store.job(answer.json()["id"])
        job.finish(Done("succeeded", time.time(), {"total": 0, "ok": 0, "failed": 0, "skipped": 0}))
        job.remove()
    assert len(set(idle.submitted)) == 2  # a cluster takes an id once


def test_no_more_jobs_than_may_be(make, idle, store, prefix) -> None:
    clients = [make(idle, max_jobs=3), make(idle, max_jobs=3)]
    with ThreadPoolExecutor(8) as pool:
        wanted = [{"inputs": [{"prefix": prefix, "glob": f"{i // 2}.*"}]} for i in range(8)]
        keys = [{"Idempotency-Key": f"k{i // 2}"} for i in range(8)]
        answers = list(pool.map(lambda i: clients[i % 2].post("/v1/jobs", json=wanted[i], headers=keys[i]), range(8)))
    taken = {answer.json()["id"] for answer in answers if answer.status_code in (200, 202)}
    assert {answer.status_code for answer in answers} <= {200, 202, 429}
    assert len(taken) <= 3
    assert set(store.queue()) == taken  # what was taken is looked after
    more = (clients[0].post("/v1/jobs", json={"inputs": [{"prefix": prefix}]}) for _ in range(4))
    assert [answer.status_code for answer in more] == [202] * (3 - len(taken)) + [429] * (1 + len(taken))


def test_localizing_can_be_a_job(make, idle, store, make_video, tmp_path: Path) -> None:
    client, url = make(idle), "/v1/localize"
    video_id = put_video(store, make_video(tmp_path / "v.mp4", 0.2))
    asked, headers = {"video_id": video_id, "min_score": 0.2}, {"Prefer": "wait=5, respond-async"}
    answer = client.post(url, json=asked, headers=headers)
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "respond-async")
    [job] = client.get("/v1/jobs").json()["jobs"]
    assert answer.json() | {"updated": job["updated"]} == job
    assert answer.headers["location"] == job["links"]["self"]
    assert (job["video_ids"], job["params"]["min_score"]) == ([video_id], 0.2)
    problem(client.post(url, json=asked | {"start": 0.1}, headers=headers), 422, "bad-parameters")
    body = problem(client.post(url, content=b"video", headers=headers | MP4), 422, "bad-parameters")
    assert "Upload the video first" in body["detail"]


def test_bad_requests_are_told(make, idle, prefix, store, make_video, tmp_path: Path) -> None:
    client = make(idle, max_jobs=1, max_inputs=2)
    foreign = put_video(store, make_video(tmp_path / "v.mp4", 0.2), owner="somebody else")
    for inputs, status, urn in (
        ([], 422, "bad-parameters"),
        ([{}], 422, "bad-parameters"),
        ([{"uri": f"{prefix}/a.mp4", "glob": "*"}], 422, "bad-parameters"),
        ([{"video_id": "0" * 24}], 404, "not-found"),
        ([{"video_id": foreign}], 404, "not-found"),
        ([{"uri": "/etc/passwd"}], 422, "forbidden-uri"),
        ([{"prefix": f"{prefix}/../data"}], 422, "forbidden-uri"),
        ([{"uri": f"{prefix}/a.txt"}], 422, "bad-parameters"),
        ([{"prefix": prefix}] * 3, 422, "bad-parameters"),
    ):
        problem(client.post("/v1/jobs", json={"inputs": inputs}), status, urn)
    good = {"inputs": [{"prefix": prefix}]}
    problem(client.post("/v1/jobs", json=good | {"models": ["other"]}), 404, "not-found")
    for place in ("/etc", prefix):  # which may be read
        problem(client.post("/v1/jobs", json=good | {"output_uri": place}), 422, "forbidden-uri")
    assert idle.submitted == []
    video_id = put_video(store, tmp_path / "v.mp4")
    job_id = client.post("/v1/jobs", json={"inputs": [{"prefix": prefix}, {"video_id": video_id}]}).json()["id"]
    assert store.videos_in_use() == {video_id}
    problem(client.post("/v1/jobs", json=good), 429, "quota")
    problem(client.delete(f"/v1/jobs/{job_id}"), 409, "conflict")
    problem(client.get(f"/v1/jobs/{job_id}/export?format=csv"), 409, "conflict")
    for place in ("", "/events", "/results", "/errors", "/export?format=csv"):
        problem(client.get(f"/v1/jobs/nope{place}"), 404, "not-found")


@pytest.fixture
def finished(store, bundles, tiny_bundle) -> Job:
    """A job with results of two videos, as a driver leaves it."""
    from workflows.tables import write_detections

    request = Request(new_id(), "local", 1000.0, [{"prefix": "/x"}], bundles, {"min_score": 0, "top_k": None})
    job, _ = store.submit(request)
    job.begin(1)
    table = segment_table(["u", "u", "v"], [0.0, 1.0, 2.0], [0.5, 2.0, 3.0], ["A", "B", "A"], score=[0.5, 0.2, 0.9])
    [model] = bundles
    write_detections(job.path("results", model), table, tiny_bundle.localizer, ["u", "v", "w"])
    job.fix_inputs({"u": "/x/u.mp4", "v": "/x/v.mp4", "w": "/x/w.mp4"}, ["/y"])
    job.tell(1, "status", [{"status": "localizing"}])
    job.tell(2, "segment", segments_json(table, model))
    job.report(State(1, "localizing", time.time(), 3, 3, "videos", 4))
    job.finish(Done("partial", time.time(), {"total": 4, "ok": 3, "failed": 1, "skipped": 0}))
    return job


def test_events_go_on_behind_any_of_them(make, idle, finished) -> None:
    client, url = make(idle), f"/v1/jobs/{finished.id}/events"
    every = told(client.get(url).text)
    numbered = [(number, name) for name, number, _ in every if number is not None]
    assert numbered == [(1, "status"), (2, "segment"), (3, "segment"), (4, "segment"), (5, "done")]
    for last in range(1, 5):
        rest = told(client.get(url, headers={"Last-Event-ID": str(last)}).text)
        assert [one for one in rest if one[1]] == [one for one in every if one[1] and one[1] > last]
    assert client.get(url, headers={"Last-Event-ID": "5"}).status_code == 204
    assert next(data for name, _, data in every if name == "progress")["done"] == 3


def test_events_are_sent_as_they_come(make, idle, store, bundles) -> None:
    request = Request(new_id(), "local", time.time(), [{"prefix": "/x"}], bundles, {})
    job, _ = store.submit(request)

    def work() -> None:
        job.tell(1, "status", [{"status": "validating"}])
        time.sleep(0.7)
        job.tell(2, "segment", [{"label": "A"}])
        job.finish(Done("succeeded", time.time(), {"total": 1, "ok": 1, "failed": 0, "skipped": 0}))

    with ThreadPoolExecutor(1) as pool:
        pool.submit(work)
        every = told(make(idle).get(f"/v1/jobs/{job.id}/events").text)
    assert [name for name, number, _ in every if number] == ["status", "segment", "done"]


def test_results_come_in_pages(make, idle, finished) -> None:
    client, url = make(idle), f"/v1/jobs/{finished.id}/results"
    every = client.get(url).json()["segments"]
    assert [one["label"] for one in every] == ["A", "B", "A"]
    paged, token = [], ""
    while token is not None:
        body = client.get(url, params={"limit": 1} | ({"page_token": token} if token else {})).json()
        paged, token = paged + body["segments"], body["next_page_token"]
    assert paged == every
    assert [one["start"] for one in client.get(url, params={"label": "A"}).json()["segments"]] == [0.0, 2.0]
    assert len(client.get(url, params={"min_score": 0.5, "model": "tiny"}).json()["segments"]) == 2
    problem(client.get(url, params={"model": "other"}), 404, "not-found")
    [error] = client.get(f"/v1/jobs/{finished.id}/errors").json()["errors"]
    assert error == {"input": "/y", "stage": "list", "type": "empty", "message": "/y: expected videos, found none"}


def test_exports(make, idle, finished) -> None:
    client, url = make(idle), f"/v1/jobs/{finished.id}/export"
    for name in ("json", "activitynet", "label-studio"):
        answer = client.get(url, params={"format": name, "min_score": 0.4})
        assert answer.headers["content-type"] == "application/json"
        assert answer.text.count('"score"') >= 2, name
    assert client.get(url, params={"format": "csv"}).text.splitlines()[0] == "video,start,end,label,score"
    assert client.get(url, params={"format": "srt"}).headers["content-type"] == "application/zip"
    answer = client.get(url, params={"format": "srt", "video_id": "u"})
    assert answer.text.startswith("1\n00:00:00,000 --> 00:00:00,500\nA 50%\n")
    assert answer.headers["content-disposition"].endswith('detections.srt"')
    problem(client.get(url, params={"format": "vtt", "video_id": "x"}), 404, "not-found")


def test_an_unchanged_job_is_not_sent_again(make, idle, finished) -> None:
    client, url = make(idle), f"/v1/jobs/{finished.id}"
    first = client.get(url)
    assert "retry-after" not in first.headers
    again = client.get(url, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.delete(url).status_code == 204
    assert client.get("/v1/jobs").json()["jobs"] == []


def test_the_list_has_pages(make, idle, store, bundles) -> None:
    ids = [new_id() for _ in range(5)]
    for number, one in enumerate(ids):
        job, _ = store.submit(Request(one, "local", 1000.0 + number, [{"prefix": "/x"}], bundles, {}))
        job.begin(1)
    client = make(idle)
    first = client.get("/v1/jobs?limit=3").json()
    second = client.get("/v1/jobs", params={"limit": 3, "page_token": first["next_page_token"]}).json()
    assert [job["id"] for job in first["jobs"] + second["jobs"]] == ids[::-1]
    assert second["next_page_token"] is None


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


def test_a_job_that_cannot_be_looked_after_keeps_no_other_from_it(idle, store, bundles) -> None:
    jobs = [store.submit(Request(new_id(), "local", 1000.0, [{"prefix": "/x"}], bundles, {}))[0] for _ in range(3)]
    broken = min(jobs, key=lambda job: job.id)  # the first in the queue
    files.write_bytes(broken.path("job.json"), b'{"of": "another release"}')
    asyncio.run(reconcile.reconcile_all(store, idle))
    assert sorted(idle.submitted) == sorted(job.submission(1) for job in jobs if job is not broken)


def test_a_record_that_is_none_hides_no_other_job(make, idle, store, finished, caplog) -> None:
    for content in (b'{"of": "another release"}', b"{", b"[]"):
        broken, _ = store.submit(Request(new_id(), "local", time.time(), [{"prefix": "/x"}], {}, {}))
        broken.begin(1)
        files.write_bytes(broken.path("job.json"), content)
    client = make(idle)
    for _ in range(2):
        assert [job["id"] for job in client.get("/v1/jobs").json()["jobs"]] == [finished.id]
        assert store.videos_in_use() == set()
        store.sweep(3600.0)
    assert caplog.text.count("a job is passed over") == 3
    assert len(store.of("local")) == 4  # none was removed


def test_a_removal_that_was_cut_short_leaves_no_job(make, idle, finished, store, monkeypatch) -> None:
    client, url = make(idle), f"/v1/jobs/{finished.id}"
    with monkeypatch.context() as patch:
        remove = files.remove
        patch.setattr(files, "remove_folder", lambda uri: None)  # it was killed before
        patch.setattr(files, "remove", lambda uri: remove(uri) if uri != finished.listed else None)
        assert client.delete(url).status_code == 204
    files.remove(finished.path("done.json"))
    problem(client.get(url), 404, "not-found")
    assert not idle.submitted
    store.sweep(0.0)
    assert not [path for path in Path(store.data.uri).rglob("*") if path.is_file()]
