import hashlib
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from balletal import files
from balletal.errors import InputError
from tests.workflows.serve.fakes import FakeBackend, problem
from workflows.serve import access
from workflows.serve.access import COOKIE, LOOPBACK, Access, read_tokens, session_secret, tokens_from
from workflows.serve.app import create_app
from workflows.serve.context import Owner
from workflows.serve.data import Data

ANNA, BERTA = "anna's-token-0123456789", "berta's-token-0123456789"
DIGEST = hashlib.sha256(BERTA.encode()).hexdigest()
TOKENS = read_tokens(f"# who may ask\nanna {ANNA}\n\nberta sha256:{DIGEST}  # hashed\n", where="tokens")
OWN = {"Origin": "http://testserver"}


def client(rules: Access, **options: Any) -> TestClient:
    app = create_app(FakeBackend(), Data("unused"), access=rules)

    @app.post("/write")
    async def write(owner: Owner) -> str:
        return owner

    @app.websocket("/socket")
    async def socket(socket: WebSocket) -> None:
        owner = rules.owner(socket)
        await socket.accept()
        await socket.send_text(owner)

    return TestClient(app, **options)


@pytest.fixture
def guarded() -> TestClient:
    return client(Access(TOKENS, secret=b"s" * 32))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_token_says_who_asks(guarded: TestClient) -> None:
    assert guarded.post("/write", headers=bearer(ANNA)).json() == "anna"
    assert guarded.post("/write", headers=bearer(BERTA)).json() == "berta"
    # A token cannot come from a foreign page unasked, so its origin does not matter.
    assert guarded.post("/write", headers=bearer(ANNA) | {"Origin": "http://evil.example"}).json() == "anna"


@pytest.mark.parametrize(
    "headers", [{}, bearer("wrong"), bearer(""), bearer(DIGEST), {"Authorization": f"Basic {ANNA}"}, bearer("ä" * 20)]
)
def test_without_a_known_token_nothing(guarded: TestClient, headers: dict[str, str]) -> None:
    for path in ("/v1/models", "/v1/limits", "/metrics", "/v1/session"):
        response = guarded.get(path, headers={k: v.encode() for k, v in headers.items()})
        problem(response, 401, "unauthenticated")
        assert response.headers["www-authenticate"].startswith("Bearer")
    assert guarded.get("/v2/health/live", headers={k: v.encode() for k, v in headers.items()}).status_code == 200


def test_a_session_stands_for_a_token(guarded: TestClient) -> None:
    problem(guarded.post("/v1/session", json={"token": "wrong"}), 401, "unauthenticated")
    response = guarded.post("/v1/session", json={"token": ANNA}, headers=OWN)
    assert response.status_code == 204
    flags = response.headers["set-cookie"].lower()
    assert "httponly" in flags
    assert "samesite=strict" in flags
    assert "secure" not in flags
    assert ANNA not in response.headers["set-cookie"]
    assert guarded.get("/v1/session").json() == {"owner": "anna"}
    assert guarded.delete("/v1/session", headers=OWN).status_code == 204
    problem(guarded.get("/v1/session"), 401, "unauthenticated")


def test_over_https_the_cookie_stays_there() -> None:
    far = client(Access(TOKENS, b"s" * 32), base_url="https://testserver")
    assert "secure" in far.post("/v1/session", json={"token": ANNA}).headers["set-cookie"].lower()


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        (OWN, True),
        (OWN | {"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({}, False),  # browsers tell one or the other
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "http://testserver:81"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://[evil"}, False),
        (OWN | {"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
    ],
)
def test_what_a_cookie_may_do_depends_on_the_page(guarded: TestClient, headers: dict[str, str], passes: bool) -> None:
    guarded.post("/v1/session", json={"token": ANNA}, headers=OWN)
    assert guarded.get("/v1/models", headers=headers).status_code == 200
    response = guarded.post("/write", headers=headers)
    if passes:
        assert response.json() == "anna"
        with guarded.websocket_connect("/socket", headers=headers) as socket:
            assert socket.receive_text() == "anna"
    else:
        problem(response, 403, "forbidden-origin")
        with pytest.raises(WebSocketDisconnect), guarded.websocket_connect("/socket", headers=headers):
            pass


def test_a_session_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = Access(TOKENS, b"s" * 32)
    one = client(rules)
    cookie = one.post("/v1/session", json={"token": ANNA}).cookies[COOKIE]
    owner, expiry, signature = cookie.split(".")

    def status(of: TestClient, value: str) -> int:
        return of.get("/v1/session", headers={"Cookie": f"{COOKIE}={value}"}).status_code

    assert status(client(Access(TOKENS, b"s" * 32)), cookie) == 200  # another replica
    assert status(one, f"berta.{expiry}.{signature}") == 401
    assert status(one, f"{owner}.{int(expiry) + 1}.{signature}") == 401
    assert status(one, f"{owner}.{expiry}.") == 401
    assert status(one, "x") == 401
    assert status(client(Access(TOKENS, b"t" * 32)), cookie) == 401
    changed = read_tokens(f"anna {ANNA}-new\n", where="tokens")
    assert status(client(Access(changed, b"s" * 32)), cookie) == 401
    later = access.time.time() + access.SESSION_S + 1
    monkeypatch.setattr(access.time, "time", lambda: later)
    assert status(one, cookie) == 401


def test_without_tokens_no_foreign_page_drives_the_service() -> None:
    near = client(Access(hosts=LOOPBACK), base_url="http://127.0.0.1:8000")
    own = {"Origin": "http://127.0.0.1:8000"}
    assert near.post("/write").json() == "local"  # curl
    assert near.post("/write", headers=own).json() == "local"
    problem(near.post("/write", headers={"Origin": "http://evil.example"}), 403, "forbidden-origin")
    problem(near.post("/write", headers={"Sec-Fetch-Site": "cross-site"}), 403, "forbidden-origin")
    evil = {"Origin": "http://evil.example"}
    with pytest.raises(WebSocketDisconnect), near.websocket_connect("/socket", headers=evil):
        pass
    # A name of the attacker's that was made to mean this machine.
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[", ""):
        problem(near.get("/v1/models", headers={"Host": host}), 403, "forbidden-origin")
    for host in ("localhost:8000", "[::1]:8000", "LOCALHOST"):
        assert near.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "found none"),
        ("# nobody\n", "found none"),
        ("\nanna", "line 2"),
        ("anna short", "16 characters"),
        ("../anna 0123456789abcdef", "a name"),
        ("anna sha256:12", "64 hex digits"),
        ("anna two tokens-0123456789", "another line"),
    ],
)
def test_tokens_that_are_none(text: str, match: str) -> None:
    with pytest.raises(InputError, match=match) as error:
        read_tokens(text or "\n", where="tokens")
    assert "0123456789" not in str(error.value)


def test_where_tokens_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(access.TOKENS, raising=False)
    assert tokens_from(None) == ()
    monkeypatch.setenv(access.TOKENS, f"anna {ANNA}")
    (tmp_path / "tokens").write_text(f"berta {BERTA}")
    assert [token.owner for token in tokens_from(None)] == ["anna"]
    assert [token.owner for token in tokens_from(str(tmp_path / "tokens"))] == ["berta"]
    assert BERTA not in repr(tokens_from(str(tmp_path / "tokens")))


def test_one_secret_for_all_replicas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = session_secret(str(tmp_path))
    assert len(first) == 32
    assert session_secret(str(tmp_path)) == first
    with monkeypatch.context() as patch:  # two that start together find none
        patch.setattr(files, "exists", lambda uri: False)
        assert session_secret(str(tmp_path)) == first
    assert (tmp_path / "session.key").stat().st_mode & 0o077 == 0
