"""The real app over real connections: a backend that answers at once, jobs that a thread does, lines that are cut."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from balletal.segments import segment_table
from tests.workflows.serve.fake_service import serving
from tests.workflows.serve.fakes import MODELS, FakeBackend
from workflows.serve.access import Access, read_tokens
from workflows.serve.app import create_app
from workflows.serve.data import Data
from workflows.serve.jobstore import Done, JobStore, State
from workflows.serve.limits import Limits
from workflows.serve.results import segments_json
from workflows.serve.runner import Bundle, Running
from workflows.serve.sources import Sources
from workflows.tables import write_detections

TOKEN = "anna's-token-0123456789"


class ThreadRunner:
    """Drivers that find the same two steps in every video; one whose URI holds ``bad`` fails. ``fake`` tells tags.

    Attributes:
        hold: keeps drivers behind their first word until it is set.
    """

    def __init__(self, data: Data) -> None:
        self.bundles = {model.id: Bundle("bundle") for model in MODELS}
        self.hold = threading.Event()
        self.hold.set()
        self._data = data

    async def submit(self, job_folder: str, submission_id: str) -> None:
        threading.Thread(target=self._work, args=(submission_id.partition("-")[0],), daemon=True).start()

    async def status(self, submission_id: str) -> Running:
        return "running"

    async def stop(self, submission_id: str) -> None:
        pass

    def _work(self, job_id: str) -> None:
        job = JobStore(self._data).job(job_id)
        assert job is not None
        job.tell(1, "status", [{"status": "localizing"}])
        videos = {one.get("video_id", Path(one.get("uri", "")).stem): one for one in job.request.inputs}
        job.fix_inputs({name: one.get("uri", "") for name, one in videos.items() if "prefix" not in one}, [])
        good = [name for name in videos if "bad" not in name]
        job.report(State(1, "localizing", time.time(), len(good), len(videos), "videos", len(videos)))
        self.hold.wait()
        event = 2
        for model in job.request.bundles:
            names = [name for name in good for _ in range(2)]
            table = segment_table(names, [0.0, 1.0] * len(good), [0.5, 2.0] * len(good), "A", score=0.5)
            tags = ("Backwards",) if model.startswith("fake") else ()
            if tags:
                table["tags"] = pd.Series([[*tags], []] * len(good), dtype=object)
            localizer: Any = SimpleNamespace(digest="1" * 64, name=model, spec=MODELS[0].spec, tags=tags)
            write_detections(job.path("results", model), table, localizer, good)
            if not table.empty:
                job.tell(event, "segment", segments_json(table, model))
            event += len(table)
        failed = len(videos) - len(good)
        counts = {"total": len(videos), "ok": len(good), "failed": failed, "skipped": 0}
        job.finish(Done("partial" if failed else "succeeded", time.time(), counts))


class JobsBackend(FakeBackend):
    runner: ThreadRunner

    def __init__(self, data: Data) -> None:
        super().__init__()
        self.runner = ThreadRunner(data)


@dataclass
class Whole:
    """A service. ``place`` is a folder whose videos clients may name."""

    url: str
    backend: JobsBackend
    place: Path


@contextlib.contextmanager
def whole_service(folder: Path, *, token: str | None = None, **limits: Any) -> Iterator[Whole]:
    """The app on a free port."""
    data, place = Data(str(folder / "data")), folder / "place"
    place.mkdir()
    backend = JobsBackend(data)
    access = Access(read_tokens(f"anna {token}", where="tokens") if token else (), secret=b"s" * 32)
    app = create_app(backend, data, Limits(**limits), access, Sources((str(place),)))
    with serving(app) as url:
        yield Whole(url, backend, place)
        backend.runner.hold.set()


@dataclass
class Line:
    """A TCP line to a service that is cut where a test says.

    Attributes:
        cuts: of each connection in turn, the bytes (sent, answered) after which it is cut; None: never. Further
            connections are whole.
        taken: connections that were made.
    """

    target: tuple[str, int]
    cuts: list[tuple[int | None, int | None]] = field(default_factory=list)
    taken: int = 0


@contextlib.contextmanager
def line_to(url: str) -> Iterator[tuple[str, Line]]:
    """A line to a service, and its own URL."""
    host, port = url.removeprefix("http://").split(":")
    line = Line((host, int(port)))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_listen, args=(listener, line), daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", line


def _listen(listener: socket.socket, line: Line) -> None:
    with contextlib.suppress(OSError):  # it was closed
        while True:
            near, _ = listener.accept()
            far = socket.create_connection(line.target)
            sent, answered = line.cuts.pop(0) if line.cuts else (None, None)
            line.taken += 1
            for source, sink, most in ((near, far, sent), (far, near, answered)):
                threading.Thread(target=_carry, args=(source, sink, most), daemon=True).start()


def _carry(source: socket.socket, sink: socket.socket, most: int | None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536 if most is None else min(65536, most)):
            sink.sendall(data)
            if most is not None and not (most := most - len(data)):
                break
    for one in (source, sink):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


Answer = tuple[int, dict[str, str], bytes]


@contextlib.contextmanager
def answering(answers: Sequence[Answer]) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server that gives these answers in turn, the last one for ever; and the headers of the requests so far."""
    left, seen = list(answers), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(dict(self.headers))
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, body = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()
