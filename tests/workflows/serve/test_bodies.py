import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.types import Message

from workflows.serve import bodies
from workflows.serve.problems import Problem


def test_a_client_that_falls_silent_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def messages() -> AsyncIterator[Message]:
        yield {"type": "http.request", "body": b"the first half", "more_body": True}
        await asyncio.Event().wait()

    monkeypatch.setattr(bodies, "SILENCE_S", 0.05)
    request = Request({"type": "http", "method": "PUT", "path": "/", "headers": []}, messages().__anext__)
    with pytest.raises(Problem, match="Nothing came") as told:
        asyncio.run(asyncio.wait_for(bodies.receive(request, tmp_path / "body", 100), 120))
    assert (told.value.status, told.value.urn) == (408, "silence")
