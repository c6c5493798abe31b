"""An app without a model, for several owners."""

from pathlib import Path
from typing import Any, cast

import httpx
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


def upload(client: httpx.Client, content: bytes, chunk: int = 1 << 20, **told: Any) -> str:
    """Begin an upload and send it whole; its id."""
    begun = client.post("/v1/uploads", json={"filename": "a.mp4", "bytes": len(content)} | told)
    assert begun.status_code == 201, begun.text
    where = begun.headers["location"]
    for offset in range(0, len(content), chunk):
        piece = content[offset : offset + chunk]
        sent = client.patch(where, content=piece, headers=BYTES | {"Upload-Offset": str(offset)})
        assert (sent.status_code, sent.headers["upload-offset"]) == (204, str(offset + len(piece))), sent.text
    return str(begun.json()["id"])
