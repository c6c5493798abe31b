"""A job in the data folder: what was asked, who works on it, how far it is, what came of it.

    jobs/<id>/job.json                   what was asked, and by whom
              inputs.json                the videos that it is about, fixed by its first driver
              attempts/<n>.json          a driver was started for the n-th time
              state.json                 how far the driver is, and when it was last alive
              events/<first id>.json     what was told, see :meth:`Job.tell`
              cancel.json                somebody does not want it any more
              results/<name@version>/    as :mod:`workflows.score` writes them
              done.json                  how it ended
    owners/<owner>/<created>-<id>        the jobs of an owner, by time
    queue/<owner>-<id>-<claim>           those that are not finished

Several replicas and drivers may be at work on one job. Wherever only one of them may be right, a file decides that can
be created once: ``job.json`` (whose request has the key), ``attempts/<n>`` (who starts the driver), an event (which
driver is the job's), ``done.json`` (how it ended). All else is a report that the next one replaces.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

from balletal import files
from balletal.errors import InputError
from workflows.serve.data import Data, new_id
from workflows.serve.runner import Bundle

Status = Literal[
    "queued", "validating", "extracting", "localizing", "writing", "succeeded", "partial", "failed", "cancelled"
]
FINISHED = ("succeeded", "partial", "failed", "cancelled")

log = logging.getLogger(__name__)

_READERS = 16


def rfc3339(seconds: float) -> str:
    """A time of the Unix clock as JSON has it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Request:
    """What a job was asked to do. It does not change.

    Attributes:
        owner: who asked; nobody else is told of the job.
        created: seconds of the Unix clock.
        inputs: ``{"video_id", "uri"}``, ``{"uri"}`` or ``{"prefix", "glob"}``.
        bundles: by ``name@version``.
        params: ``min_score``, ``top_k``, ``coarse``.
        output_uri: a folder that gets a copy of the results.
        asked: digest of the request's body; the same key with another one is a mistake.
        limits: of a video that was not looked at when it came: see :func:`workflows.serve.media.require_within`.
        places: that clients may name, see :class:`workflows.serve.sources.Sources`; what is below a prefix lies in one.
        claim: this request's own name in the queue. Of several with one key, each comes and goes without the others.
    """

    id: str
    owner: str
    created: float
    inputs: list[dict[str, str]]
    bundles: dict[str, Bundle]
    params: dict[str, Any]
    output_uri: str | None = None
    asked: str = ""
    places: list[str] = field(default_factory=list)
    limits: dict[str, float] = field(default_factory=dict)
    claim: str = field(default_factory=new_id)


@dataclass(frozen=True)
class State:
    """How far a driver is: its report, which the next one replaces."""

    attempt: int
    status: Status
    heartbeat: float
    done: int = 0
    total: int = 0
    unit: Literal["segments", "videos"] = "segments"
    inputs: int = 0
    error: str | None = None


@dataclass(frozen=True)
class Done:
    """How a job ended."""

    status: Literal["succeeded", "partial", "failed", "cancelled"]
    finished: float
    counts: dict[str, int]
    error: str | None = None


class TooManyError(InputError):
    """An owner has as many unfinished jobs as may be."""


class JobStore:
    """The jobs of a data folder."""

    def __init__(self, data: Data) -> None:
        self.data = Data(files.absolute(data.uri))  # as errors have it, and for drivers that run elsewhere

    def submit(self, request: Request, most: int | None = None) -> tuple["Job", bool]:
        """The job of a request, and whether it is new: one with the same id may stand there already.

        Args:
            most: unfinished jobs of the owner, with this one.

        Raises:
            TooManyError: there would be more.
        """
        job = Job(self, request)
        if (there := self.job(request.id)) is not None:
            return there, False
        job.enqueue()  # first, so that no job is forgotten
        # Counted with it in place: of two that would fit alone, none is let in by mistake.
        if most is not None and len(self.queue(request.owner)) > most:
            files.remove(job.queued)
            raise TooManyError(request.owner, expected=f"at most {most} unfinished jobs", found="another one")
        new = files.create_bytes(job.path("job.json"), _bytes(asdict(request)))
        if not new:  # the job is another's of the same key, who has a claim of its own
            files.remove(job.queued)
        there = self.job(request.id)
        assert there is not None
        return there, new

    def job(self, job_id: str) -> "Job | None":
        """The job of that id.

        Raises:
            InputError: what stands there is no job of this release.
        """
        try:
            uri = files.join(self.data.folder("jobs", job_id), "job.json")
        except ValueError:  # no id
            return None
        found = _read(uri)
        if found is None:
            return None
        try:
            bundles = {name: Bundle(**bundle) for name, bundle in found.pop("bundles").items()}
            return Job(self, Request(**found, bundles=bundles))
        except (TypeError, KeyError, AttributeError) as error:
            raise InputError(uri, expected="a job", found=f"{type(error).__name__}: {error}") from None

    def readable(self, job_id: str) -> "Job | None":
        """The job of that id; None also where what stands there is none, which the log is told once."""
        try:
            return self.job(job_id)
        except InputError as error:
            _log_once(str(error))
            return None

    def of(self, owner: str) -> list[str]:
        """The names of an owner's jobs in the list, latest first; each ends in the job's id."""
        return _names(files.join(self.data.uri, "owners", _owner(owner)))[::-1]

    def listed(self, names: list[str]) -> list["Job"]:
        """Jobs by such names; those that are gone, or no jobs, are left out."""
        with ThreadPoolExecutor(_READERS) as pool:
            found = list(pool.map(self.readable, [name.rpartition("-")[2] for name in names]))
        return [job for job in found if job is not None]

    def queue(self, owner: str | None = None) -> set[str]:
        """The ids of the jobs that are not finished, of everyone or of one owner."""
        return {job_id for _, who, job_id in self._claims() if owner is None or who == _owner(owner)}

    def _claims(self) -> Iterator[tuple[str, str, str]]:
        """The names in the queue, each with its owner and the id of its job."""
        for name in _names(files.join(self.data.uri, "queue")):
            owner, job_id, *_ = name.split("-")
            yield name, owner, job_id

    def videos_in_use(self) -> set[str]:
        """The ids of the videos that unfinished jobs need."""
        found = [self.readable(job_id) for job_id in self.queue()]
        return {one["video_id"] for job in found if job for one in job.request.inputs if "video_id" in one}

    def unqueue(self, job_id: str, after_s: float) -> None:
        """Forget an id of the queue whose job is finished, or was never made in so many seconds."""
        for name, _, claimed in self._claims():
            queued = files.join(self.data.uri, "queue", name)
            if claimed == job_id and time.time() - float(files.read_bytes(queued)) > after_s:
                files.remove(queued)

    def sweep(self, ttl_s: float) -> None:
        """Remove jobs that ended longer ago than that."""
        before = time.time() - ttl_s
        root = files.join(self.data.uri, "owners")
        for owner in _names(root):
            for name in _names(files.join(root, owner)):
                created, _, job_id = name.rpartition("-")
                if float(created) / 1e3 >= before:
                    break  # the names are in order of time
                try:
                    job = self.job(job_id)
                except InputError as error:
                    _log_once(str(error))
                    continue
                if job is None:  # its removal was cut short
                    files.remove_folder(self.data.folder("jobs", job_id))
                    files.remove(files.join(root, owner, name))
                elif (done := job.done()) is not None and done.finished < before:
                    job.remove()


class Job:
    """A job that was submitted; what is asked of it is read from the folder each time."""

    def __init__(self, store: JobStore, request: Request) -> None:
        self.store, self.request = store, request
        self.id = request.id
        self.folder = store.data.folder("jobs", request.id)
        owner, created = _owner(request.owner), f"{round(request.created * 1e3):015d}"
        self.queued = files.join(store.data.uri, "queue", f"{owner}-{request.id}-{request.claim}")
        self.listed = files.join(store.data.uri, "owners", owner, f"{created}-{request.id}")

    def path(self, *parts: str) -> str:
        return files.join(self.folder, *parts)

    def there(self) -> bool:
        """Whether it was neither removed nor, with its key, made again."""
        found = _read(self.path("job.json"))
        return found is not None and found["created"] == self.request.created

    def enqueue(self) -> None:
        files.write_bytes(self.queued, str(time.time()).encode())

    def submission(self, attempt: int) -> str:
        """The id under which a driver is submitted. Of a job that was removed and made again with its key, another."""
        return f"{self.id}-{round(self.request.created * 1e3):x}-{attempt}"

    def state(self) -> State | None:
        """The last report of a driver."""
        found = _read(self.path("state.json"))
        return State(**found) if found else None

    def report(self, state: State) -> None:
        files.write_bytes(self.path("state.json"), _bytes(asdict(state)))

    def done(self) -> Done | None:
        """How it ended; None while it has not."""
        found = _read(self.path("done.json"))
        return Done(**found) if found else None

    def total(self, state: State | None) -> int:
        """Its inputs: those that its driver found, or those that were named before one has looked."""
        return (state.inputs if state is not None else 0) or len(self.request.inputs)

    def skipped(self, state: State | None) -> dict[str, int]:
        """The counts of a job that ended before its inputs were looked at."""
        total = self.total(state)
        return {"total": total, "ok": 0, "failed": 0, "skipped": total}

    def finish(self, done: Done) -> bool:
        """End the job, and say whether it ended so: it may have ended otherwise before."""
        ended = files.create_bytes(self.path("done.json"), _bytes(asdict(done)))
        files.remove(self.queued)
        return ended

    def cancel(self) -> None:
        """Have the job end: every driver looks for this with each report."""
        files.write_bytes(self.path("cancel.json"), _bytes({"at": time.time()}))

    def cancelled(self) -> bool:
        return files.exists(self.path("cancel.json"))

    def attempt(self) -> tuple[int, float]:
        """The number of the last driver, and when it was started; (0, 0) when there was none."""
        names = _names(self.path("attempts"))
        if not names:
            return 0, 0.0
        last = max(int(name.removesuffix(".json")) for name in names)
        found = _read(self.path("attempts", f"{last}.json"))
        return last, float(found["at"]) if found else 0.0

    def begin(self, attempt: int) -> bool:
        """Whether it falls to the caller to start this driver."""
        if attempt == 1:
            files.write_bytes(self.listed, b"")
        about = {"at": time.time(), "by": new_id()}
        return files.create_bytes(self.path("attempts", f"{attempt}.json"), _bytes(about))

    def withdraw(self, attempt: int) -> None:
        """Unsay that this driver was started. One that runs all the same is found when it is begun again."""
        files.remove(self.path("attempts", f"{attempt}.json"))

    def inputs(self) -> tuple[dict[str, str], list[str]] | None:
        """URIs by video id, and the prefixes without a video; None before a driver has looked."""
        found = _read(self.path("inputs.json"))
        return (found["videos"], found["missing"]) if found else None

    def fix_inputs(self, videos: dict[str, str], missing: list[str]) -> tuple[dict[str, str], list[str]]:
        """Say which videos the job is about; what an earlier driver said stays."""
        files.create_bytes(self.path("inputs.json"), _bytes({"videos": videos, "missing": missing}))
        found = self.inputs()
        assert found is not None
        return found

    def public(self, text: str) -> str:
        """A message as the client may read it: by the names that it knows, and without places that it did not name."""
        names = {files.absolute(bundle.uri): name for name, bundle in self.request.bundles.items()}
        names |= {bundle.uri: name for name, bundle in self.request.bundles.items()}
        names |= {files.absolute(one["uri"]): one["video_id"] for one in self.request.inputs if "video_id" in one}
        names |= {self.folder: "the job's folder", self.store.data.uri: "the data folder"}
        for place, name in names.items():
            text = text.replace(place, name)
        return text

    def tell(self, first: int, name: str, data: list[dict[str, Any]], **about: Any) -> bool:
        """Write events from id ``first`` on, and say whether that was so: another driver may have told that id.

        The file is called by its first id, so that the next one's name follows from this one, and whoever waits for it
        needs no list of the folder.
        """
        return files.create_bytes(self._events(first), _bytes({"event": name, "data": data} | about))

    def told(self) -> list[dict[str, Any]]:
        """What the files of events hold, in order: ``first``, ``event``, ``data`` and what was told about them."""
        firsts = self.event_files()
        with ThreadPoolExecutor(_READERS) as pool:
            found = list(pool.map(self.events, firsts))
        return [{"first": first} | one for first, one in zip(firsts, found, strict=True) if one]

    def events(self, first: int) -> dict[str, Any] | None:
        """What the file of events from id ``first`` on holds; None: there is none."""
        found: dict[str, Any] | None = _read(self._events(first))
        return found

    def event_files(self) -> list[int]:
        """The first ids of the files of events."""
        return [int(name.removesuffix(".json")) for name in _names(self.path("events"))]

    def _events(self, first: int) -> str:
        return self.path("events", f"{first:010d}.json")

    def remove(self) -> None:
        """Remove all of it. The request goes first: without its end alone it would be a job to begin again."""
        files.remove(self.queued)
        files.remove(self.path("job.json"))
        files.remove_folder(self.folder)
        files.remove(self.listed)


def key_id(owner: str, key: str) -> str:
    """The id of the job that an owner's idempotency key stands for: the same key leads to the same folder."""
    return hashlib.sha256(json.dumps([owner, key]).encode()).hexdigest()[:24]


@lru_cache(maxsize=1000)
def _log_once(message: str) -> None:
    log.error("a job is passed over: %s", message)


def _owner(owner: str) -> str:
    """An owner's name as part of a path."""
    return hashlib.sha256(owner.encode()).hexdigest()[:16]


def _names(folder: str) -> list[str]:
    """Names in a folder, without those under which files are being written."""
    return [name for name in files.list_names(folder) if not name.startswith(".")]


def _bytes(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _read(uri: str) -> Any:
    """What a JSON file holds; None where there is none."""
    try:
        return files.read_json(uri)
    except InputError as error:
        if error.found != "nothing there":
            raise
        return None
