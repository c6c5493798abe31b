"""What is told of a job: read once by each who listens, and looked for once for all of them in this process."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Literal

from workflows.serve.jobforms import JobBody, job_body
from workflows.serve.jobstore import Job

POLL_S = 0.5
"""How often the folder of a job is looked at for those who listen."""


@dataclass(frozen=True)
class Event:
    """Something that was told of a job, under an id that counts up from 1."""

    id: int
    name: Literal["status", "segment"]
    data: dict[str, Any]


class Listener:
    """Reads the events of a job behind an id, each once."""

    def __init__(self, job: Job, after: int = 0) -> None:
        self.job, self.after = job, after
        self._at = max((first for first in job.event_files() if first <= after + 1), default=1)

    def read(self) -> list[Event]:
        """What was told since."""
        events: list[Event] = []
        while (found := self.job.events(self._at)) is not None:
            told = [Event(number, found["event"], one) for number, one in enumerate(found["data"], self._at)]
            events += [event for event in told if event.id > self.after]
            self._at += len(told)
        return events

    @property
    def last(self) -> int:
        """The id of the last event, when all were read."""
        return self._at - 1


@dataclass(frozen=True)
class Seen:
    """A job as it was at a look, and the id of the last event that there was."""

    body: JobBody
    last: int


class Watch:
    """A job that is listened to: however many ask, its folder is looked at every :data:`POLL_S` seconds at the most."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._alone = asyncio.Lock()
        self._events: Listener | None = None
        self._seen: Seen | None = None
        self._due = 0.0

    async def look(self) -> Seen:
        """The job as it is, or was a moment ago."""
        async with self._alone:
            if self._seen is None or time.monotonic() >= self._due:
                self._seen = await asyncio.to_thread(self._look)
                self._due = time.monotonic() + POLL_S
            return self._seen

    def _look(self) -> Seen:
        if self._events is None:
            self._events = Listener(self._job, max(self._job.event_files(), default=1) - 1)
        body = job_body(self._job)  # before the events, so that none comes after its end
        self._events.read()
        return Seen(body, self._events.last)
