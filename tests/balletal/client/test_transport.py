import json
import socket
from pathlib import Path

import pytest

from balletal.client import Client, ServiceError
from balletal.errors import InputError
from tests.workflows.serve.whole import TOKEN, answering

PLAIN = {"Content-Type": "text/plain"}
LIMITS = (200, {"Content-Type": "application/json"}, b'{"max_jobs": 1}')


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (408, "timeout"),
        (499, "cancelled"),
        (500, "unreachable"),
        (502, "unreachable"),
        (503, "busy"),
        (504, "timeout"),
    ],
)
def test_what_serve_and_proxies_answer_in_plain_text(status: int, kind: str) -> None:
    answer = (status, PLAIN | {"X-Request-ID": "r1"}, b"Request dropped due to backpressure")
    with answering([answer]) as (url, _), pytest.raises(ServiceError) as refused:
        Client(url, patience_s=0.0).limits()
    error = refused.value
    assert (error.status, error.type, error.request_id) == (status, f"urn:balletal:{kind}", "r1")
    assert "Request dropped" in str(error)


def test_a_busy_service_is_asked_again_when_it_says(caplog: pytest.LogCaptureFixture) -> None:
    busy = (503, PLAIN | {"Retry-After": "0"}, b"")
    with answering([busy, busy, busy, LIMITS]) as (url, seen):
        assert Client(url).limits() == {"max_jobs": 1}
        assert len(seen) == 4
    [told] = [record.getMessage() for record in caplog.records if record.name.startswith("balletal")]
    assert "503 Service Unavailable" in told
    assert "trying again for 60 s" in told
    with answering([(503, PLAIN | {"Retry-After": "7"}, b"")]) as (url, seen):
        with pytest.raises(ServiceError) as refused:
            Client(url, patience_s=0.0).limits()
        assert (refused.value.retry_after, len(seen)) == (7.0, 1)


def test_a_replica_that_dies_at_work_is_not_the_last_word() -> None:
    died = (500, PLAIN, b"Internal Server Error")
    with answering([LIMITS, died, LIMITS]) as (url, seen):
        client = Client(url)
        assert client.limits() == client.limits() == {"max_jobs": 1}
        assert len(seen) == 3


@pytest.mark.parametrize("status", [400, 404, 429, 500, 507])
def test_other_errors_are_told_at_once(status: int) -> None:
    with answering([(status, {"Content-Type": "application/json"}, b"[]")]) as (url, seen):
        with pytest.raises(ServiceError, match=f"^{status} .*GET /v1/limits") as refused:
            Client(url).limits()
        assert (refused.value.type, len(seen)) == ("about:blank", 1)


def test_a_service_that_was_never_there_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = Client(f"http://127.0.0.1:{port}", TOKEN, patience_s=3600.0)
    with pytest.raises(ServiceError, match="Connection refused") as lost:
        client.models()
    assert (lost.value.status, lost.value.type) == (None, "urn:balletal:unreachable")
    assert not client.ready()
    shown = repr([lost.value, lost.value.__cause__, lost.value.more])
    assert TOKEN not in shown


def test_a_token_does_not_follow_to_another_place() -> None:
    with (
        answering([LIMITS]) as (other, seen),
        answering([(302, {"Location": other}, b"")]) as (url, asked),
        pytest.raises(ServiceError, match="302 Found"),
    ):
        Client(url, TOKEN).limits()
    assert [one["Authorization"] for one in asked] == [f"Bearer {TOKEN}"]
    assert seen == []


FOREIGN = "expected an answer of balletal's service"


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"models": 1, "max_body_bytes": 0, "max_chunk_bytes": null}'])
def test_a_server_that_is_another_one_is_told(body: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"a video")
    with answering([(200, {}, body)]) as (url, _):
        client = Client(url)
        for ask in (
            client.models,
            lambda: list(client.videos()),
            lambda: list(client.jobs.list()),
            lambda: client.localize(tmp_path / "a.mp4"),
            lambda: client.upload(tmp_path / "a.mp4"),
            lambda: client.jobs.wait("0" * 24),  # a page to sign in on would be asked for events for ever
        ):
            with pytest.raises(ServiceError, match=FOREIGN):
                ask()


@pytest.mark.parametrize(
    "odd",
    [{"video": {}}, {"video": 1}, {"model": {}}, {"model": []}, {"warnings": None}, {"segments": [{"start": 0.0}]}],
)
def test_a_result_that_is_none_is_told(odd: dict) -> None:
    good = {"segments": [], "video": {"duration": 1}, "model": dict.fromkeys(("name", "version", "digest"), "a")}
    good["warnings"] = []
    with answering([(200, {}, json.dumps(body).encode()) for body in (good, good | odd)]) as (url, _):
        client = Client(url)
        assert client.localize(video_id="a").model == good["model"]
        with pytest.raises(ServiceError, match=FOREIGN):
            client.localize(video_id="a")


@pytest.mark.parametrize(
    "text",
    [
        b"event: status\ndata: {}\n\n",
        b"event: status\ndata: []\n\n",
        b"event: progress\ndata: 5\n\n",
        b"event: done\ndata: \xff\n\n",
    ],
)
def test_events_that_are_none_are_told(text: bytes) -> None:
    answer = (200, {"Content-Type": "text/event-stream"}, text)
    with answering([answer]) as (url, _), pytest.raises(ServiceError, match=FOREIGN):
        list(Client(url).jobs.events("0" * 24))


def test_pages_that_do_not_end_are_told() -> None:
    with answering([(200, {}, b'{"jobs": [], "next_page_token": "again"}')]) as (url, seen):
        with pytest.raises(ServiceError, match=FOREIGN):
            list(Client(url).jobs.list())
        assert len(seen) == 2


def test_an_error_that_is_cut_short_is_told() -> None:
    cut = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    with answering([(404, cut, b"no gzip")]) as (url, _), pytest.raises(ServiceError, match="No answer"):
        list(Client(url, patience_s=0.0).jobs.events("0" * 24))


@pytest.mark.parametrize(
    "url", ["", "host:8000", "ftp://host", "http://", "http://host:port", "http://u:secret@host", "http://h?a=b"]
)
def test_no_url(url: str) -> None:
    with pytest.raises(InputError, match="service's URL") as refused:
        Client(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "ü"])
def test_no_token(token: str) -> None:
    with pytest.raises(InputError, match="token") as refused:
        Client("http://host", token)
    assert not token or token not in str(refused.value)


@pytest.mark.parametrize("given", ["", "..", "a/b", "a?b"])
def test_no_id(given: str) -> None:
    with pytest.raises(InputError, match="an id"):
        Client("http://host").video(given)
