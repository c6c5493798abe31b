"""Runners, a backend and videos for tests of jobs."""

import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from balletal.video.probe import probe
from workflows.serve.backend import Model
from workflows.serve.data import new_id
from workflows.serve.jobstore import JobStore
from workflows.serve.library import Library, stored_video
from workflows.serve.media import Look
from workflows.serve.runner import Bundle


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
    """Has models, and localizes nothing itself."""

    runner: Any
    served: list[Model]

    async def models(self) -> list[Model]:
        return self.served


def put_video(store: JobStore, source: Path, owner: str = "local") -> str:
    """A video as an upload leaves it."""
    video_id = new_id()
    copy = shutil.copy(source, source.with_suffix(".sent"))
    seen = Look(probe(str(source)), ".mp4", True, [])
    video = stored_video(video_id, owner, source.name, datetime.now(UTC), source.stat().st_size, "0" * 64, seen)
    Library(store.data).add(video, Path(copy))
    return video_id


def wait(client: TestClient, job_id: str, seconds: float = 300) -> dict[str, Any]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        body = client.get(f"/v1/jobs/{job_id}").json()
        if body["status"] in ("succeeded", "partial", "failed", "cancelled"):
            return body
        time.sleep(0.2)
    raise AssertionError(body)
