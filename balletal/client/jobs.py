"""Jobs: any number of videos, localized while nobody waits."""

import contextlib
import json
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import requests

from balletal import files
from balletal.client.bodies import Event, Failure, Failures, Job, JobsPage, Segments
from balletal.client.transport import Http, checked_id, foreign, parsed

_RECONNECT_S = (0.5, 1.5)
"""Between connections to the events of a job: at least, and at most."""
_TOLD = {"status": ("status",), "progress": ("done", "total", "unit")}
"""Members of an event's data that whoever is told of it may read."""


class Jobs:
    """The jobs of a service; :attr:`balletal.client.Client.jobs`. Every call may raise a ServiceError."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def submit(
        self,
        inputs: Sequence[Mapping[str, str]],
        *,
        models: Sequence[str] | None = None,
        params: Mapping[str, Any] | None = None,
        output_uri: str | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Begin a job.

        Args:
            inputs: each ``{"video_id"}``, ``{"uri"}``, or ``{"prefix"}`` with or without a ``"glob"``.
            models: names, with or without ``@version``; None: the default one.
            params: of ``min_score``, ``top_k`` and ``coarse``.
            output_uri: a folder that gets a copy of the results.
            idempotency_key: the same key with the same job gives the job that there is; None: a new one.
        """
        wanted: dict[str, Any] = {"inputs": inputs, "models": models, "params": params, "output_uri": output_uri}
        body = {name: value for name, value in wanted.items() if value is not None}
        # Never without a key: when an answer is lost, asking again must not make a second job.
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return parsed(Job, self._http.send("POST", "/v1/jobs", json=body, headers=headers))

    def list(self) -> Iterator[Job]:
        """Your jobs, latest first."""
        for page in self._http.pages("/v1/jobs", JobsPage):
            yield from page.jobs

    def show(self, job_id: str) -> Job:
        """A job as it is now."""
        return parsed(Job, self._http.send("GET", _path(job_id)))

    def cancel(self, job_id: str) -> Job:
        """Stop a job. What models that were through had found can still be read."""
        return parsed(Job, self._http.send("POST", f"{_path(job_id)}/cancel"))

    def delete(self, job_id: str) -> None:
        """Remove a finished job and its results."""
        self._http.send("DELETE", _path(job_id))

    def wait(self, job_id: str, on_event: Callable[[Event], None] | None = None) -> Job:
        """Wait until a job is finished.

        Args:
            on_event: is told what happens meanwhile, from the beginning on.
        """
        for event in self.events(job_id):
            if on_event is not None:
                on_event(event)
        return self.show(job_id)

    def events(self, job_id: str, *, last_event_id: int | None = None) -> Iterator[Event]:
        """What happens to a job, until it is done. A connection that is lost is made again, and no event is missed.

        Args:
            last_event_id: go on behind this event; None: from the beginning.
        """
        last = last_event_id
        while True:
            headers = {"Accept": "text/event-stream"} | ({} if last is None else {"Last-Event-ID": str(last)})
            with self._http.send("GET", f"{_path(job_id)}/events", headers=headers, stream=True) as answer:
                if answer.status_code == 204:  # all was told
                    return
                if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                    raise foreign(answer, "no events")  # a page to sign in on, say, which would be asked for for ever
                with contextlib.suppress(requests.RequestException):  # cut off
                    for event in _events(answer):
                        last = last if event.id is None else event.id
                        yield event
                        if event.name == "done":
                            return
            time.sleep(random.uniform(*_RECONNECT_S))

    def results(
        self,
        job_id: str,
        *,
        model: str | None = None,
        label: str | None = None,
        min_score: float = 0.0,
        limit: int = 1000,
    ) -> Iterator[pd.DataFrame]:
        """What was found, in pages of up to ``limit`` segments; there is at least one, so that they can be joined.

        Yields:
            Segment tables with ``score`` and ``model``, and ``tags`` (lists of names) where there are some: by model,
            video and time.
        """
        asked = {"model": model, "label": label, "min_score": min_score, "limit": limit}
        for page in self._http.pages(f"{_path(job_id)}/results", Segments, **asked):
            yield page.table()

    def errors(self, job_id: str) -> Iterator[Failure]:
        """What failed, input by input."""
        for page in self._http.pages(f"{_path(job_id)}/errors", Failures):
            yield from page.errors

    def export(
        self,
        job_id: str,
        format: str,
        path: str,
        *,
        model: str | None = None,
        min_score: float = 0.0,
        video_id: str | None = None,
    ) -> str:
        """Write the detections of a job for another program.

        Args:
            format: ``json``, ``csv``, ``activitynet``, ``eaf``, ``vtt``, ``srt``, ``otio`` or ``label-studio``.
            path: of the file to write, or its URI.
            model: None: the job's first one.
            video_id: of this video alone.

        Returns:
            The file's media type. Of several videos, vtt, srt, eaf and otio come as ``application/zip``.

        Raises:
            ServiceError: the job is not finished, or has no such results.
        """
        asked = {"format": format, "model": model, "min_score": min_score, "video_id": video_id}
        answer = self._http.send("GET", f"{_path(job_id)}/export", params=asked)
        files.write_bytes(path, answer.content)
        return answer.headers["content-type"].partition(";")[0]


def _path(job_id: str) -> str:
    return f"/v1/jobs/{checked_id(job_id)}"


def _events(answer: requests.Response) -> Iterator[Event]:
    """Server-sent events as they come (https://html.spec.whatwg.org/multipage/server-sent-events.html).

    One line of data each, as the service writes them; of an event that is cut off nothing is told.
    """
    fields: dict[str, str] = {}
    for line in answer.iter_lines():
        name, _, value = line.decode("utf-8", "replace").partition(": ")
        if line:
            fields[name] = value
            continue
        if "event" in fields:
            try:
                event = _event(fields)
            except (ValueError, KeyError, TypeError):
                raise foreign(answer, "no event") from None
            yield event
        fields = {}


def _event(fields: Mapping[str, str]) -> Event:
    data = json.loads(fields["data"])
    for member in _TOLD.get(fields["event"], ()):
        data[member]
    return Event(fields["event"], data, int(fields["id"]) if "id" in fields else None)
