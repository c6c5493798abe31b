"""The page in a browser, against the service itself: its models and its jobs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray

from tests.workflows.conftest import TinyBundle
from tests.workflows.serve.fake_service import serving
from tests.workflows.serve.test_page_browser import seconds, send
from workflows.serve.app import create_app
from workflows.serve.backend import LocalBackend, Model
from workflows.serve.data import Data
from workflows.serve.runner import Bundle, LocalRunner


@pytest.fixture
def service(browser: Any, ray_cluster: None, tiny_bundle: TinyBundle, tmp_path: Path) -> Iterator[str]:
    bundles = {Model.of(tiny_bundle.localizer).id: Bundle(tiny_bundle.folder, tiny_bundle.weights)}
    runner = LocalRunner(bundles, address=ray.get_runtime_context().gcs_address)
    backend = LocalBackend([tiny_bundle.localizer], tiny_bundle.weights, "cpu", runner=runner)
    with serving(create_app(backend, Data(str(tmp_path / "data")))) as url:
        yield url
    runner.close()


@pytest.mark.ray
def test_a_video_becomes_steps_that_can_be_watched(service: str, tab: Any, video: Path) -> None:
    tab.goto(service)
    tab.get_by_text("None yet").wait_for()
    send(tab, video)
    tab.locator(".job").wait_for()
    tab.locator(".list button").first.wait_for(timeout=400_000)
    assert tab.locator(".job").count() == 0
    with httpx.Client(base_url=service, timeout=60) as client:
        [job] = client.get("/v1/jobs").json()["jobs"]
        found = client.get(job["links"]["results"]).json()["segments"]
    assert job["status"] == "succeeded"
    assert tab.url.endswith(f"#/videos/{job['video_ids'][0]}")
    best = max((one for one in found if one["start"] > 1), key=lambda one: one["score"])
    name = f"tiny: {best['label']} · {best['start']:.2f} s – {best['end']:.2f} s · score {best['score']:.2f}"
    tab.get_by_role("button", name=name).first.click()
    assert seconds(tab) == pytest.approx(best["start"], abs=1e-3)
