"""The live socket, on an app whose backbone is none and whose model is tiny."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from starlette.requests import HTTPConnection
from starlette.testclient import WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from balletal.tal.localizer import Localizer
from tests.workflows.conftest import TinyBundle
from tests.workflows.serve.test_live_session import HEIGHT, WIDTH, features_of, jpeg
from workflows.serve import live
from workflows.serve.access import Access
from workflows.serve.app import create_app
from workflows.serve.backend import Model
from workflows.serve.data import Data
from workflows.serve.limits import Limits
from workflows.serve.problems import Problem

HELLO = {"type": "hello", "width": WIDTH, "height": HEIGHT, "fps": 2.0}


class FakeBackend:
    """A tiny bundle's model behind noise that the pixels decide. ``go`` holds the features back."""

    runner = None

    def __init__(self, localizer: Localizer) -> None:
        self._localizer, self._model = localizer, Model.of(localizer)
        self.go, self.is_ready = threading.Event(), True
        self.fails: Exception | None = None
        self.go.set()

    async def ready(self) -> bool:
        return self.is_ready

    async def models(self) -> list[Model]:
        return [self._model]

    async def localizer(self, model: str) -> Localizer:
        assert model == self._model.id
        return self._localizer

    async def features(self, model: str, pixels: np.ndarray, clips: int | None = None) -> np.ndarray:
        assert clips
        await asyncio.to_thread(self.go.wait, 240)
        if self.fails:
            raise self.fails
        return features_of(pixels, clips)


class Doorkeeper(Access):
    """Knows one token, and foreign pages."""

    def owner(self, connection: HTTPConnection) -> str:
        if connection.headers.get("origin", "http://testserver") != "http://testserver":
            raise Problem(403, "forbidden-origin", "Foreign page", "No.")
        if connection.headers.get("authorization") not in ("Bearer ada", "Bearer eva"):
            raise Problem(401, "unauthenticated", "No token", "No.")
        return connection.headers["authorization"].split()[1]


@pytest.fixture
def backend(tiny_bundle: TinyBundle) -> FakeBackend:
    return FakeBackend(tiny_bundle.localizer)


@pytest.fixture
def client(backend: FakeBackend, tmp_path: Path) -> Iterator[TestClient]:
    limits = Limits(max_live=2, max_live_frame_bytes=20_000, max_pixels=640 * 480, max_duration_s=3600)
    app = create_app(backend, Data(str(tmp_path)), limits, Doorkeeper())
    with TestClient(app, headers={"Authorization": "Bearer ada"}) as client:
        yield client


Said = list[dict[str, Any]]


def until(socket: WebSocketTestSession, kind: str) -> Said:
    said = [socket.receive_json()]
    while said[-1]["type"] != kind:
        assert said[-1]["type"] != "error", said[-1]
        said.append(socket.receive_json())
    return said


def begin(socket: WebSocketTestSession, **changes) -> dict[str, Any]:
    socket.send_json(HELLO | changes)
    return until(socket, "ready")[-1]


def picture(n: int, data: bytes | None = None) -> bytes:
    return (n * 500_000).to_bytes(8, "big") + (jpeg(n) if data is None else data)


def closing(socket: WebSocketTestSession) -> tuple[int, dict[str, Any] | None]:
    """The code that the socket closes with, and the error before it."""
    error = None
    while True:
        try:
            message = socket.receive_json()
        except WebSocketDisconnect as end:
            return end.code, error
        if message["type"] == "error":
            error = message


def test_a_session(client: TestClient, tiny_bundle: TinyBundle) -> None:
    with client.websocket_connect("/v1/live") as socket:
        ready = begin(socket)
        assert ready["credits"] == live.CREDITS
        assert ready["stride_s"] == 1.0
        assert ready["delay_s"] > 100  # this model reads 130 features at once
        assert ready["model"] == Model.of(tiny_bundle.localizer).id
        said: Said = []
        for first in range(0, 96, 16):
            for n in range(first, first + 16):
                socket.send_bytes(picture(n))
            given = 0
            while given < 16:
                said += until(socket, "credit")
                given += said[-1]["n"]
        socket.send_json({"type": "end"})
        said += until(socket, "done")
        assert closing(socket) == (1000, None)
    finals = [message for message in said if message["type"] == "segment" and message["state"] == "final"]
    assert len(finals) > 5
    assert {"provisional", "final"} <= {message.get("state") for message in said}
    for message in finals:
        assert set(message) == {"type", "state", "id", "label", "start", "end", "score"}
        assert 0 <= message["start"] < message["end"] <= 48.1
        assert message["label"] in tiny_bundle.localizer.labels.labels
    assert not [message for message in said if message["type"] == "dropped"]


def test_what_is_sent_beyond_the_credits_is_dropped(
    client: TestClient, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_read = threading.Event()
    monkeypatch.setattr(live, "_is_end", lambda message: all_read.set() or True)
    with client.websocket_connect("/v1/live") as socket:
        credits = begin(socket)["credits"]
        backend.go.clear()
        for n in range(credits + 25):
            socket.send_bytes(picture(n))
        socket.send_json({"type": "end"})
        assert all_read.wait(120)
        backend.go.set()
        said = until(socket, "done")
    dropped = [message for message in said if message["type"] == "dropped"]
    assert {message["reason"] for message in dropped} == {"credit"}
    # The first three pictures may have earned new credits: no clip is whole with them.
    assert 22 <= sum(message["count"] for message in dropped) <= 25


def test_bad_pictures_do_not_end_a_session(client: TestClient) -> None:
    with client.websocket_connect("/v1/live") as socket:
        begin(socket)
        for message in (b"", b"1234", picture(0), picture(1, b"nothing"), picture(2, jpeg(2)[:300]), picture(0)):
            socket.send_bytes(message)
        socket.send_json({"type": "end"})
        said = until(socket, "done")
    counts: dict[str, int] = {}
    for message in said:
        if message["type"] == "dropped":
            counts[message["reason"]] = counts.get(message["reason"], 0) + message["count"]
    assert counts == {"damaged": 4, "late": 1}


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        (HELLO | {"width": 0}, 4422),
        (HELLO | {"width": 100_000}, 4422),
        (HELLO | {"width": 641, "height": 480}, 4422),
        (HELLO | {"width": 6400, "height": 8}, 4422),
        (HELLO | {"fps": 0.1}, 4422),
        (HELLO | {"fps": 1000}, 4422),
        (HELLO | {"min_score": 2}, 4422),
        (HELLO | {"secret": 1}, 4422),
        (HELLO | {"model": "other"}, 4404),
        ({"type": "end"}, 4422),
        ([], 4422),
        ("x" * 5000, 4400),
    ],
)
def test_a_bad_hello(client: TestClient, hello: object, code: int) -> None:
    with client.websocket_connect("/v1/live") as socket:
        socket.send_json(hello)
        found, error = closing(socket)
    assert found == code
    assert error is not None
    assert error["problem"].startswith("urn:balletal:")
    assert error["status"] == code - 4000
    assert "secret" not in json.dumps(error) or "secret" in json.dumps(hello)


@pytest.mark.parametrize(
    ("message", "code"),
    [(b"12345678" + bytes(20_001), 4413), ("{", 4400), ('{"type": "hello"}', 4400), ("[" * 4000, 4400)],
)
def test_a_message_that_ends_a_session(client: TestClient, message: str | bytes, code: int) -> None:
    with client.websocket_connect("/v1/live") as socket:
        begin(socket)
        (socket.send_bytes if isinstance(message, bytes) else socket.send_text)(message)  # type: ignore[operator]
        found, error = closing(socket)
    assert (found, error and error["status"]) == (code, code - 4000)


@pytest.mark.parametrize(
    ("headers", "code"),
    [({"Authorization": "Bearer no"}, 4401), ({"Origin": "http://elsewhere.example"}, 4403)],
)
def test_who_may_not(client: TestClient, headers: dict[str, str], code: int) -> None:
    with client.websocket_connect("/v1/live", headers=headers) as socket:
        assert closing(socket)[0] == code


def test_only_so_many_sessions_of_an_owner(client: TestClient) -> None:
    connect: Callable[..., Any] = client.websocket_connect
    with connect("/v1/live") as one, connect("/v1/live") as two:
        begin(one)
        begin(two)
        with connect("/v1/live") as third:
            assert closing(third)[0] == 4429
        with connect("/v1/live", headers={"Authorization": "Bearer eva"}) as other:
            begin(other)
        two.send_json({"type": "end"})
        until(two, "done")
        assert closing(two)[0] == 1000
        with connect("/v1/live") as fourth:
            begin(fourth)


def test_silence_ends_a_session(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SILENCE_S", 0.3)
    with client.websocket_connect("/v1/live") as socket:
        assert closing(socket)[0] == 4408


def test_a_session_that_is_too_long_ends_with_its_segments(client: TestClient) -> None:
    with client.websocket_connect("/v1/live") as socket:
        begin(socket)
        for n in range(20):
            socket.send_bytes(picture(n))
        socket.send_bytes(picture(8000))
        said = [socket.receive_json()]
        while said[-1]["type"] != "error":
            said.append(socket.receive_json())
        assert closing(socket)[0] == 4413
    assert said[-1]["problem"] == "urn:balletal:too-large"
    assert [message for message in said if message.get("state") == "final"]


def test_our_faults_are_told_without_their_reason(client: TestClient, backend: FakeBackend) -> None:
    backend.fails = RuntimeError("secret")
    with client.websocket_connect("/v1/live") as socket:
        session = begin(socket)["session"]
        for n in range(10):
            socket.send_bytes(picture(n))
        code, error = closing(socket)
    assert code == 4500
    assert error is not None
    assert error["session"] == session
    assert "secret" not in json.dumps(error)
    backend.fails, backend.is_ready = None, False
    with client.websocket_connect("/v1/live") as socket:
        socket.send_json(HELLO)
        assert closing(socket)[0] == 4503


def test_a_client_that_goes_leaves_no_session(client: TestClient) -> None:
    for _ in range(4):  # two are allowed at a time
        with client.websocket_connect("/v1/live") as socket:
            begin(socket)
            socket.send_bytes(picture(0))
