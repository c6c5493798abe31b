"""Jobs over HTTP, on a tiny app whose drivers are processes of their own."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import ray

from balletal import files
from tests.workflows.serve.fakes import MP4, problem, told
from tests.workflows.serve.jobs_common import put_video, wait
from workflows.score import score
from workflows.serve import reconcile
from workflows.serve.data import new_id
from workflows.serve.jobstore import Done, Request
from workflows.serve.results import segments_json
from workflows.serve.runner import LocalRunner


@pytest.fixture
def local(bundles, ray_cluster) -> Iterator[LocalRunner]:
    """Its drivers join the cluster of the tests, as starting a Ray for each takes long."""
    runner = LocalRunner(bundles, address=ray.get_runtime_context().gcs_address)
    yield runner
    runner.close()


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
        local.processes[job.submission(2)].wait(300)
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


def test_two_replicas_cancel_and_what_a_client_got_wrong(make, bundles, prefix, make_video, store, monkeypatch) -> None:
    monkeypatch.setattr(reconcile, "EVERY_S", 3600.0)  # or the other replica may come by first and begin a job
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
        runners[0].processes[store.job(job_id).submission(1)].wait(300)

        job_id = one.post("/v1/jobs", json={"inputs": [{"prefix": prefix}]}).json()["id"]
        process = runners[0].processes[store.job(job_id).submission(1)]
        assert other.post(f"/v1/jobs/{job_id}/cancel").json()["status"] == "cancelled"
        problem(one.post(f"/v1/jobs/{job_id}/cancel"), 409, "conflict")
        process.wait(300)  # the other replica has not started it: the driver sees for itself
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


def test_a_key_stands_for_its_job_though_its_model_is_served_no_more(make, idle, prefix) -> None:
    client, headers = make(idle), {"Idempotency-Key": "k1"}
    [model] = idle.bundles
    body = {"inputs": [{"prefix": prefix}], "models": [model]}
    first = client.post("/v1/jobs", json=body, headers=headers)
    client.app.state.context.backend.served[:] = [replace(client.app.state.context.backend.served[0], version="next")]
    again = client.post("/v1/jobs", json=body, headers=headers)
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json()["id"] == again.json()["id"]
    problem(client.post("/v1/jobs", json=body), 404, "not-found")


def test_a_job_that_ended_early_counts_what_it_was_asked(make, idle, prefix) -> None:
    client = make(idle)
    body = {"inputs": [{"uri": f"{prefix}/{name}.mp4"} for name in "abc"]}
    job_id = client.post("/v1/jobs", json=body).json()["id"]
    state = client.post(f"/v1/jobs/{job_id}/cancel").json()
    assert state["counts"] == {"total": 3, "ok": 0, "failed": 0, "skipped": 3}
    assert state["inputs"] == 3


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
