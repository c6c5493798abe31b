"""The service answers as its OpenAPI document says, whatever it is asked.

The socket is not in the document. Events are asked of a finished job alone, as those of another do not end.
"""

import json
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from balletal.segments import segment_table
from balletal.tal.localizer import Localizer
from balletal.video.probe import probe
from tests.workflows.serve.fakes import MODELS, FakeBackend, video
from tests.workflows.serve.jobs_common import IdleRunner
from workflows.serve import openapi
from workflows.serve.app import create_app
from workflows.serve.data import Data, is_id, new_id
from workflows.serve.jobstore import Done, JobStore, Request
from workflows.serve.library import Library, stored_video
from workflows.serve.limits import Limits
from workflows.serve.media import Look
from workflows.serve.results import segments_json
from workflows.serve.runner import Bundle
from workflows.serve.uploads import NewUpload, Uploads
from workflows.tables import write_detections


class Stock:
    """An upload, a video and two jobs, one of them finished, that are there however often they are removed."""

    def __init__(self, folder: Path, localizer: Localizer) -> None:
        self.localizer = localizer
        self.data = Data(str(folder / "data"))
        self.jobs, self.library = JobStore(self.data), Library(self.data)
        self.file = folder / "v.mp4"
        self.file.write_bytes(video(0.2))
        self.info = probe(str(self.file))
        self.ids: dict[str, str] = {}

    def upload_id(self) -> str:
        uploads = Uploads(self.data, Limits())
        if not (found := self.ids.get("upload")) or not uploads.exists(found):
            new = NewUpload(filename="v.mp4", bytes=self.file.stat().st_size)
            upload = uploads.create("local", new)
            uploads.add_piece(upload, 0, self.file)
            self.ids["upload"] = upload.id
        return self.ids["upload"]

    def video_id(self) -> str:
        if not (found := self.ids.get("video")) or not self.library.exists(found):
            self.ids["video"] = video_id = new_id()
            copy, size = Path(shutil.copy(self.file, self.file.with_suffix(".sent"))), self.file.stat().st_size
            seen = Look(self.info, ".mp4", True, [])
            record = stored_video(video_id, "local", "v.mp4", datetime.now(UTC), size, "0" * 64, seen)
            self.library.add(record, copy)
        return self.ids["video"]

    def job_id(self, finished: bool) -> str:
        name = f"job {finished}"
        job = self.jobs.job(self.ids.get(name, ""))
        if job is None or (not finished and job.done()):
            inputs = [{"video_id": self.video_id(), "uri": "/v.mp4"}]
            bundles = {MODELS[0].id: Bundle("/bundle")}
            params = {"min_score": 0.0, "top_k": None, "coarse": False}
            job, _ = self.jobs.submit(Request(new_id(), "local", time.time(), inputs, bundles, params))
            job.begin(1)
            if finished:
                found = segment_table(["u", "v"], [0.0, 1.0], [0.5, 2.0], ["A", "B"], score=[0.5, 0.2])
                write_detections(job.path("results", MODELS[0].id), found, self.localizer, ["u", "v"])
                job.tell(1, "segment", segments_json(found, MODELS[0].id))
                job.finish(Done("succeeded", time.time(), {"total": 1, "ok": 1, "failed": 0, "skipped": 0}))
            self.ids[name] = job.id
        return self.ids[name]

    def put_ids(self, case: schemathesis.Case) -> None:
        """Make the ids of a request that have the form of one those of things that are here."""
        ids = case.path_parameters
        path = case.operation.path
        if is_id(str(ids.get("upload_id"))):
            ids["upload_id"] = self.upload_id()
        if is_id(str(ids.get("video_id"))):
            ids["video_id"] = self.video_id()
        if is_id(job := str(ids.get("job_id"))):
            ids["job_id"] = self.job_id(finished=path.endswith("/events") or int(job[-1], 16) % 2 == 0)
        if len(str(ids.get("name", ""))) % 2:
            ids["name"] = MODELS[0].id
        for one in _objects(case.body):
            if is_id(str(one.get("video_id"))):
                one["video_id"] = self.video_id()


def _objects(body: Any) -> Iterator[dict[str, Any]]:
    """A body that is an object, and its inputs."""
    if isinstance(body, dict):
        inputs = body.get("inputs")
        yield from (one for one in [body, *(inputs if isinstance(inputs, list) else ())] if isinstance(one, dict))


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory, tiny_bundle) -> Stock:
    return Stock(tmp_path_factory.mktemp("contract"), tiny_bundle.localizer)


@pytest.fixture(scope="module")
def contract(stock: Stock) -> Any:
    """The API as schemathesis sees it."""
    schemathesis.openapi.media_type("video/*", st.sampled_from([stock.file.read_bytes(), b"no video"]))
    backend: Any = FakeBackend()
    backend.runner = IdleRunner({model.id: Bundle("/bundle") for model in MODELS})
    return schemathesis.openapi.from_asgi("/openapi.json", create_app(backend, stock.data, Limits(max_jobs=100)))


OPERATIONS = [
    (path, method)
    for path, operations in json.loads(openapi.PATH.read_text())["paths"].items()
    for method in operations
]
# What chance alone would not find; ids are put in.
_ID = "0" * 24
_FEATURES = {"name": "features", "shape": [2, 4], "datatype": "FP32", "data": [0.5] * 8}
GOOD: dict[tuple[str, str], dict[str, Any]] = {
    ("/v1/jobs", "post"): {"body": {"inputs": [{"video_id": _ID}]}, "media_type": "application/json"},
    ("/v1/localize", "post"): {"body": {"video_id": _ID}, "media_type": "application/json", "query": {"model": "fake"}},
    ("/v2/models/{name}/infer", "post"): {"body": {"inputs": [_FEATURES]}, "path_parameters": {"name": "fake@1"}},
    ("/v1/jobs/{job_id}/export", "get"): {"path_parameters": {"job_id": _ID}, "query": {"format": "csv"}},
}

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_answers_are_those_of_the_document(path: str, method: str, contract: Any, stock: Stock) -> None:
    operation = contract[path][method]
    cases = st.one_of(
        *(operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode),
        operation.as_strategy(**GOOD.get((path, method), {})),
    )

    @settings(max_examples=15, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=cases)
    def check(case: schemathesis.Case) -> None:
        stock.put_ids(case)
        case.call_and_validate(checks=CHECKS)

    check()
