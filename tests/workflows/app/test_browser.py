"""The command and its page in a browser."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

from balletal.client import Client
from tests.workflows.seaweed import free_ports
from tests.workflows.serve.test_page_browser import seconds
from tests.workflows.serve.whole import TOKEN, Whole

pytestmark = pytest.mark.usefixtures("streamlit")


@pytest.fixture(scope="module")
def app(browser: Any, whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    said = tmp_path_factory.mktemp("app") / "log"
    port = free_ports(1)[0]
    command = [sys.executable, "-m", "workflows.app.command", "--url", whole.url, "--port", str(port)]
    with said.open("w") as log:
        running = subprocess.Popen(command, env=os.environ | {"BALLETAL_TOKEN": TOKEN}, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        while not answers(f"{url}/_stcore/health"):
            assert running.poll() is None, said.read_text()
            time.sleep(0.1)
        yield url
    finally:
        running.terminate()
        running.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def test_a_click_on_a_step_goes_to_its_first_moment(app: str, tab: Any, client: Client, clips: Path) -> None:
    tab.goto(app)
    tab.locator("input[type=file]").set_input_files(clips / "a.mp4")
    tab.get_by_role("button", name="Find the steps").click()
    step = tab.get_by_role("button", name="other: A · 1.00 s – 2.00 s · score 0.50")
    tab.get_by_text("Slow motion, frame by frame").wait_for()  # the last of the page: nothing moves any more
    step.click()
    assert seconds(tab) == pytest.approx(1.0, abs=1e-3)
    now = tab.locator(".balletal .now")
    now.filter(has_text="A").wait_for()
    assert now.inner_text() == "A"
    box = tab.locator(".balletal svg").bounding_box()
    tab.mouse.click(box["x"] + 128 + (box["width"] - 128) * 0.35, box["y"] + box["height"] - 30)
    assert seconds(tab) == pytest.approx(0.7, abs=0.01)
    now.filter(has_not_text="A").wait_for()
    assert now.inner_text().strip() == ""
    assert tab.evaluate("document.querySelector('video').videoWidth") == 64

    tab.get_by_text("Another video, or other models").click()
    tab.get_by_text("a.mp4", exact=True).nth(1).wait_for()  # the file is still chosen
    tab.get_by_role("button", name="Find the steps", disabled=False).wait_for()

    tab.reload()
    tab.get_by_role("button", name="other: A · 0.00 s – 0.50 s · score 0.50").wait_for()
    with tab.expect_download() as saved:
        tab.get_by_role("button", name="Save", exact=True).click()
    assert saved.value.suggested_filename == "a.csv"
    assert Path(saved.value.path()).read_text().splitlines()[0].startswith("video,start,end,label")


def test_a_job_is_followed_and_can_be_stopped(
    app: str, tab: Any, client: Client, clips: Path, held: threading.Event
) -> None:
    client.upload(clips / "b.mp4")
    tab.goto(app)
    tab.get_by_text("one that was sent before").click()
    tab.get_by_role("button", name="Find the steps").click()
    tab.get_by_text("Finding the steps").wait_for()
    tab.get_by_role("button", name="Stop", exact=True).click()
    tab.get_by_text("Stopped.").wait_for()
    assert next(client.jobs.list()).status == "cancelled"


def test_the_way_back_shows_the_labels_of_the_job_before(
    app: str, tab: Any, client: Client, whole: Whole, answered: dict[str, str]
) -> None:
    job = client.jobs.wait(client.jobs.submit([{"video_id": answered["video"]}], models=["other@1"]).id)
    results = next(whole.place.parent.glob(f"data/jobs/{job.id}/results/*/detections.parquet"))
    pd.read_parquet(results).assign(label="B").to_parquet(results)
    tab.goto(f"{app}/?video={answered['video']}&job={answered['job']}")
    legend = tab.locator(".balletal ul")
    legend.get_by_text("A", exact=True).last.wait_for()
    tab.evaluate("address => history.pushState(null, '', address)", f"/?video={answered['video']}&job={job.id}")
    tab.evaluate("dispatchEvent(new PopStateEvent('popstate'))")
    legend.get_by_text("B", exact=True).last.wait_for()
    # Streamlit clears away what was there a moment later.
    legend.get_by_text("A", exact=True).first.wait_for(state="detached")
