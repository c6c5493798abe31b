"""What a job tells of itself over HTTP: events, results, exports."""

import time
from concurrent.futures import ThreadPoolExecutor

from tests.workflows.serve.fakes import problem, told
from workflows.serve.data import new_id
from workflows.serve.jobstore import Done, Request


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
