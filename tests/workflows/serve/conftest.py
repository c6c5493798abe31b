"""An app whose backend answers at once, a video for the tests of the page, and jobs over one data folder."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from balletal.segments import segment_table
from tests.workflows.serve.fakes import FakeBackend
from tests.workflows.serve.jobs_common import Backend, IdleRunner
from workflows.serve.app import create_app
from workflows.serve.backend import Model
from workflows.serve.data import Data, new_id
from workflows.serve.jobstore import Done, Job, JobStore, Request, State
from workflows.serve.limits import Limits
from workflows.serve.results import segments_json
from workflows.serve.runner import Bundle
from workflows.serve.sources import Sources
from workflows.tables import write_detections


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def client(backend: FakeBackend, tmp_path: Path) -> TestClient:
    return TestClient(create_app(backend, Data(str(tmp_path))))


@pytest.fixture(scope="module")
def video(make_video: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("page") / "class.mp4", 4.0)


@pytest.fixture
def make(tiny_bundle, tmp_path: Path) -> Callable[..., TestClient]:
    """``make(runner)``: a client of an app over one data folder; each call is another replica."""

    def _make(runner: Any, **limits: Any) -> TestClient:
        backend: Any = Backend(runner, [Model.of(tiny_bundle.localizer)])
        data = Data(str(tmp_path / "data"))
        sources, outputs = (Sources((str(tmp_path / name),)) for name in ("videos", "results"))
        app = create_app(backend, data, Limits(**limits), sources=sources, outputs=outputs)
        return TestClient(app, raise_server_exceptions=False)

    return _make


@pytest.fixture
def bundles(tiny_bundle) -> dict[str, Bundle]:
    return {Model.of(tiny_bundle.localizer).id: Bundle(tiny_bundle.folder, tiny_bundle.weights)}


@pytest.fixture
def idle(bundles) -> IdleRunner:
    return IdleRunner(bundles)


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(Data(str(tmp_path / "data")))


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    (tmp_path / "videos").mkdir(exist_ok=True)
    return str(tmp_path / "videos")


@pytest.fixture
def finished(store, bundles, tiny_bundle) -> Job:
    """A job with results of two videos, as a driver leaves it."""
    request = Request(new_id(), "local", 1000.0, [{"prefix": "/x"}], bundles, {"min_score": 0, "top_k": None})
    job, _ = store.submit(request)
    job.begin(1)
    table = segment_table(["u", "u", "v"], [0.0, 1.0, 2.0], [0.5, 2.0, 3.0], ["A", "B", "A"], score=[0.5, 0.2, 0.9])
    [model] = bundles
    write_detections(job.path("results", model), table, tiny_bundle.localizer, ["u", "v", "w"])
    job.fix_inputs({"u": "/x/u.mp4", "v": "/x/v.mp4", "w": "/x/w.mp4"}, ["/y"])
    job.tell(1, "status", [{"status": "localizing"}])
    job.tell(2, "segment", segments_json(table, model))
    job.report(State(1, "localizing", time.time(), 3, 3, "videos", 4))
    job.finish(Done("partial", time.time(), {"total": 4, "ok": 3, "failed": 1, "skipped": 0}))
    return job
