import threading
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from balletal.client import Client, Event, ServiceError
from balletal.client import jobs as module
from balletal.segments import DETECTION_COLUMNS
from tests.workflows.serve.whole import TOKEN, Whole, line_to


@pytest.fixture
def inputs(service: Whole) -> list[dict[str, str]]:
    return [{"uri": str(service.place / f"{name}.mp4")} for name in ("a", "b", "bad")]


def test_a_job_from_its_beginning_to_its_end(client: Client, inputs, tmp_path: Path) -> None:
    params = {"min_score": 0.25, "top_k": 5}
    job = client.jobs.submit(inputs, models=["fake", "other"], params=params)
    assert job.params == params | {"coarse": False}
    events: list[Event] = []
    done = client.jobs.wait(job.id, events.append)
    assert (done.status, done.finished, done.counts.ok, done.counts.failed) == ("partial", True, 2, 1)
    assert done.models == ("fake@2", "other@1")
    assert done == client.jobs.show(job.id) == next(client.jobs.list())
    assert [one.name for one in events if one.id] == ["status", *["segment"] * 8, "done"]

    pages = list(client.jobs.results(job.id, limit=3))
    assert [len(page) for page in pages] == [3, 3, 2]
    found = pd.concat(pages, ignore_index=True)
    assert list(found.columns) == [*DETECTION_COLUMNS, "model", "tags"]
    told = [event.data for event in events if event.name == "segment"]
    assert [one | {"tags": one.get("tags")} for one in told] == found.astype(object).where(found.notna(), None).to_dict(
        "records"
    )
    assert found["tags"].tolist()[:4] == [["Backwards"], []] * 2
    [some] = client.jobs.results(job.id, model="fake", label="A", min_score=0.1)
    assert some["model"].tolist() == ["fake@2"] * 4
    [none] = client.jobs.results(job.id, min_score=0.9)
    assert (len(none), list(none.columns)) == (0, [*DETECTION_COLUMNS, "model"])
    assert list(client.jobs.errors(job.id)) == []

    assert client.jobs.export(job.id, "csv", str(tmp_path / "a.csv")) == "text/csv"
    assert (tmp_path / "a.csv").read_text().splitlines()[:2] == ["video,start,end,label,score", "a,0.0,0.5,A,0.5"]
    assert client.jobs.export(job.id, "srt", str(tmp_path / "a.zip"), model="other") == "application/zip"
    assert zipfile.ZipFile(tmp_path / "a.zip").namelist() == ["a.srt", "b.srt"]
    client.jobs.export(job.id, "vtt", str(tmp_path / "b.vtt"), video_id="b")
    assert (tmp_path / "b.vtt").read_text().startswith("WEBVTT")

    client.jobs.delete(job.id)
    with pytest.raises(ServiceError, match="404"):
        client.jobs.show(job.id)


def test_a_key_makes_one_job_though_answers_are_lost(service: Whole, inputs) -> None:
    with line_to(service.url) as (url, line), Client(url, TOKEN) as client:
        before = len(list(client.jobs.list()))
        client.close()
        line.cuts.append((None, 60))  # of the answer that the job was made
        job = client.jobs.submit(inputs)
        assert len(list(client.jobs.list())) == before + 1
        assert client.jobs.submit(inputs, idempotency_key="k").id != job.id
        assert len({client.jobs.submit(inputs, idempotency_key="k").id for _ in range(2)}) == 1
        with pytest.raises(ServiceError) as refused:
            client.jobs.submit(inputs[:1], idempotency_key="k")
        assert refused.value.type == "urn:balletal:idempotency-key-reused"


def test_no_event_is_missed_or_told_twice(service: Whole, client: Client, inputs, monkeypatch) -> None:
    monkeypatch.setattr(module, "_RECONNECT_S", (0.0, 0.0))
    job = client.jobs.submit(inputs)
    client.jobs.wait(job.id)
    every = [event for event in client.jobs.events(job.id) if event.id]
    assert [event.id for event in every] == list(range(1, 7))
    assert [event for event in client.jobs.events(job.id, last_event_id=4) if event.id] == every[4:]
    assert list(client.jobs.events(job.id, last_event_id=6)) == []
    with line_to(service.url) as (url, line), Client(url, TOKEN) as cut:
        cut.limits()
        cut.close()
        # In the headers, and in events: a page of headers has about 1000 bytes.
        line.cuts += [(None, n) for n in (500, 1200, 1300, 1450, 1700)]
        assert [event for event in cut.jobs.events(job.id) if event.id] == every
        assert line.taken >= 4


def test_events_come_while_a_job_is_done(service: Whole, client: Client, inputs) -> None:
    service.backend.runner.hold.clear()
    job = client.jobs.submit(inputs)
    events = client.jobs.events(job.id)
    first = next(event for event in events if event.id)
    assert (first.name, first.data) == ("status", {"status": "localizing"})
    with pytest.raises(ServiceError) as early:
        client.jobs.delete(job.id)
    assert (early.value.status, early.value.type) == (409, "urn:balletal:conflict")
    threading.Timer(0.1, service.backend.runner.hold.set).start()
    assert [event.name for event in events if event.id] == [*["segment"] * 4, "done"]


def test_a_job_is_cancelled(service: Whole, client: Client, inputs) -> None:
    service.backend.runner.hold.clear()
    job = client.jobs.submit(inputs)
    assert client.jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(ServiceError, match="finished"):
        client.jobs.cancel(job.id)
    assert client.jobs.wait(job.id).status == "cancelled"
    service.backend.runner.hold.set()


def test_a_job_that_is_not_there(client: Client) -> None:
    for ask in (client.jobs.show, client.jobs.wait, lambda one: list(client.jobs.results(one))):
        with pytest.raises(ServiceError, match="404"):
            ask("0" * 24)
