"""An app without a model, for several owners."""

from pathlib import Path
from typing import Any, cast

from fastapi.testclient import TestClient
from starlette.requests import HTTPConnection

from workflows.serve.access import Access
from workflows.serve.app import create_app
from workflows.serve.backend import Backend
from workflows.serve.data import Data
from workflows.serve.limits import Limits

BYTES = {"Content-Type": "application/octet-stream"}


class NamedAccess(Access):
    """Whoever asks says who it is."""

    def owner(self, connection: HTTPConnection) -> str:
        return connection.headers.get("x-owner", "anna")


def videos_client(folder: Path | str, limits: Limits | None = None, owner: str = "anna") -> TestClient:
    app = create_app(cast(Backend, None), Data(str(folder)), limits, NamedAccess())
    return TestClient(app, raise_server_exceptions=False, headers={"x-owner": owner})


def upload(client: TestClient, content: bytes, chunk: int = 1 << 20, **told: Any) -> str:
    """Begin an upload and send it whole; its id."""
    begun = client.post("/v1/uploads", json={"filename": "a.mp4", "bytes": len(content)} | told)
    assert begun.status_code == 201, begun.text
    where = begun.headers["location"]
    for offset in range(0, len(content), chunk):
        piece = content[offset : offset + chunk]
        sent = client.patch(where, content=piece, headers=BYTES | {"Upload-Offset": str(offset)})
        assert (sent.status_code, sent.headers["upload-offset"]) == (204, str(offset + len(piece))), sent.text
    return str(begun.json()["id"])


def problem(response: Any, status: int, urn: str) -> dict[str, Any]:
    """The answer's problem, which is of that type and tells nothing of this machine."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert (body["type"], body["status"]) == (f"urn:balletal:{urn}", status)
    assert not any(word in response.text for word in ("/tmp", "Traceback", "content.", "uploads/"))
    return body
