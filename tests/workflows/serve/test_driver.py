"""A driver beside a scoring that is told what to find, and those who listen."""

import asyncio
import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from balletal import files
from balletal.segments import segment_table
from tests.workflows.conftest import TinyBundle
from tests.workflows.serve.fake_service import serving
from tests.workflows.serve.fakes import FakeBackend
from workflows import cluster, extract, score
from workflows.serve import driver
from workflows.serve.app import create_app
from workflows.serve.backend import Model
from workflows.serve.data import Data, new_id
from workflows.serve.driver import drive
from workflows.serve.jobstore import Job, JobStore, Request
from workflows.serve.reconcile import end_cancelled
from workflows.serve.runner import Bundle
from workflows.serve.watch import Watch
from workflows.tables import write_detections


@pytest.fixture
def job(tiny_bundle: TinyBundle, tmp_path: Path) -> Job:
    """A job of three videos, submitted and not begun."""
    bundles = {Model.of(tiny_bundle.localizer).id: Bundle(tiny_bundle.folder, tiny_bundle.weights)}
    inputs = [{"uri": f"/videos/{name}.mp4"} for name in "abc"]
    request = Request(new_id(), "local", time.time(), inputs, bundles, {"min_score": 0.0})
    return JobStore(Data(str(tmp_path))).submit(request)[0]


def test_a_video_is_told_when_it_is_localized(
    job: Job, tiny_bundle: TinyBundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The scoring goes on with a video when the client has the one before: told in one lump, it would wait for ever."""
    seen = {name: threading.Event() for name in "abc"}

    def scored(bundle: str, out: str, *, videos: dict[str, str], on_progress: Any, on_videos: Any, **_: Any) -> None:
        table = segment_table(list(videos), [0.0] * 3, [1.0] * 3, "A", score=0.5)
        for number, video_id in enumerate(videos):
            on_progress("extracting", number + 1, 3)
            on_videos({video_id: table[table["video_id"] == video_id]})
            on_progress("localizing", number + 1, 3)
            assert seen[video_id].wait(120)
        write_detections(out, table, tiny_bundle.localizer, list(videos))
        files.write_json(f"{out}/run.json", {})

    monkeypatch.setattr(score, "score", scored)
    monkeypatch.setattr(extract, "probe_videos", lambda *_, **__: None)
    monkeypatch.setattr(cluster, "ray_session", contextlib.nullcontext)
    monkeypatch.setattr(driver, "_leave_to_others", lambda: None)
    work = threading.Thread(target=drive, args=(job, 1))
    names: list[str] = []
    with serving(create_app(FakeBackend(), Data(str(tmp_path)))) as url:
        job.begin(1)
        work.start()
        for name, data in _events(f"{url}/v1/jobs/{job.id}/events"):
            names.append(data["status"] if name == "status" else name)
            if name == "segment":
                seen[data["video_id"]].set()
    work.join()
    # Nothing goes back to an earlier stage, though extraction goes on beside.
    told = [name for name in names if name != "progress"]
    assert told == ["validating", "extracting", "localizing", *["segment"] * 3, "writing", "done"]
    done = job.done()
    assert done is not None
    assert done.status == "succeeded"
    state = job.state()
    assert state is not None
    assert (state.done, state.total, state.unit) == (3, 3, "videos")


@pytest.mark.parametrize("again", [False, True])
def test_a_driver_of_a_removed_job_ends_and_leaves_nothing(
    job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, again: bool
) -> None:
    """The page cancels a job and removes it at once: nothing says any more that it was cancelled."""
    removed, beat = threading.Event(), driver.Reporter._beat

    def work(job: Job, *_: Any) -> None:
        end_cancelled(job)
        job.remove()
        if again:  # with the same key
            job.store.submit(replace(job.request, created=job.request.created + 1))
        files.write_bytes(job.path("results", "late"), b"what an actor was writing")
        removed.set()
        for _ in range(2400):
            time.sleep(0.05)

    monkeypatch.setattr(driver, "_localize", work)
    monkeypatch.setattr(driver, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr(driver.Reporter, "_beat", lambda self: removed.wait() and beat(self))
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as behind `nohup ... &`
    try:
        assert driver.main([job.folder, "1"]) == 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert Path(job.folder).exists() == again
    assert job.done() is None


def test_a_copy_has_nothing_of_an_earlier_job(job: Job, tmp_path: Path) -> None:
    [model] = job.request.bundles
    for name in ("run.json", "errors.parquet"):
        files.write_bytes(files.join(str(tmp_path / "out"), model, name), b"old")
    files.write_bytes(job.path("results", model, "run.json"), b"new")
    driver._copy(job, str(tmp_path / "out"))
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "out" / model).iterdir()] == [("run.json", b"new")]


def _events(url: str) -> Iterator[tuple[str, dict[str, Any]]]:
    with httpx.stream("GET", url, timeout=120) as answer:
        name = ""
        for line in answer.iter_lines():
            kind, _, value = line.partition(": ")
            if kind == "event":
                name = value
            elif kind == "data":
                yield name, json.loads(value)


def test_many_listeners_look_once(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job.tell(1, "status", [{"status": "validating"}])
    reads: list[str] = []
    read: Callable[[str], bytes] = files.read_bytes
    monkeypatch.setattr(files, "read_bytes", lambda uri: (reads.append(uri), read(uri))[1])
    watch = Watch(job)

    async def listen() -> list[int]:
        return [seen.last for seen in await asyncio.gather(*(watch.look() for _ in range(50)))]

    assert asyncio.run(listen()) == [1] * 50
    assert len(reads) == len(set(reads))
